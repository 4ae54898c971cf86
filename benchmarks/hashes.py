"""Train the configurations read from standard input and print the hashes of each result, one JSON object a line.

`benchmarks.unchanged` runs this file with one tree after another first on the path. It therefore imports nothing from
`sweeper` by a fixed name: it looks each one up in the modules that define it, in the newest layout first.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import sweeper

TREE: Final = Path(sweeper.__file__).resolve().parents[1]
HOMES: Final = {
    "experiment": ("sweeper.core.experiments", "sweeper.config"),
    "RunConfig": ("sweeper.core.config", "sweeper.config"),
    "find": ("sweeper.data.sources",),
    "resolve": ("sweeper.data.fashion", "sweeper.dataset"),  # before `find`
    "load": ("sweeper.training.images", "sweeper.data"),
    "start": ("sweeper.training.start", "sweeper.diagnostics"),  # the front door, with the X-ray
    "use_threads": ("sweeper.training.device", "sweeper.train"),
}


def look_up(name: str) -> Any:
    """The object called `name`, from the first module in `HOMES` that this tree has.

    A module that the tree lacks may still be importable, from an editable installation of another tree.

    Raises:
        ImportError: no module of this tree has it.
    """
    for module in HOMES[name]:
        place = TREE.joinpath(*module.split("."))
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            found = getattr(importlib.import_module(module), name, None)
            if found is not None:
                return found
    raise ImportError(f"{name} is in none of {', '.join(HOMES[name])}. Add its module to HOMES.")


def check_origin() -> None:
    """Raise ImportError if a module of another tree was imported."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "sweeper" and file and not Path(file).is_relative_to(TREE):
            raise ImportError(f"{name} was imported from {file}, which is not in {TREE}")


def train(fields: dict[str, Any]) -> dict[str, str]:
    """Train one configuration on the CPU with the embedded sample, and hash what comes out."""
    number = fields.get("experiment", 0)
    others = {name: value for name, value in fields.items() if name != "experiment"}
    others |= {"dataset": "sample", "device": "cpu"}
    config = look_up("experiment")(number, **others) if number else look_up("RunConfig").create(**others)
    training = look_up("start")(config, look_up("load")(config, sample()))
    while True:
        try:
            next(training)
        except StopIteration as stop:
            return hashes(stop.value)


def sample() -> Any:
    """The embedded sample as `load` takes it: a source, or in earlier trees its folder."""
    try:
        return look_up("find")("sample")
    except ImportError:
        return look_up("resolve")("sample")[1]


def hashes(result: Any) -> dict[str, str]:
    """SHA-256 of the history, of the weights, and of the X-ray's metrics."""
    xray = {name: value for name, value in result.metrics().items() if name.startswith("xray/")}
    return {
        "history_sha256": result.history_sha256,
        "weights_sha256": result.weights_sha256,
        "xray_sha256": hashlib.sha256(json.dumps(xray, sort_keys=True).encode()).hexdigest(),
    }


def main() -> None:
    for case in json.load(sys.stdin):
        look_up("use_threads")(case["threads"])
        result = train(case["fields"])
        check_origin()
        print(json.dumps({"name": case["name"], **result}), flush=True)


if __name__ == "__main__":
    main()
