"""Train the configurations read from standard input and print the hashes of each result, one JSON object a line.

`benchmarks.unchanged` runs this file with one tree after another first on the path. It therefore imports nothing from
`sweeper` by a fixed name: it looks each one up in the modules that define it, in the newest layout first.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from typing import Any, Final

HOMES: Final = {
    "experiment": ("sweeper.core.experiments", "sweeper.config"),
    "RunConfig": ("sweeper.core.config", "sweeper.config"),
    "resolve": ("sweeper.data.sources", "sweeper.data.fashion", "sweeper.dataset"),
    "load": ("sweeper.training.images", "sweeper.data"),
    "start": ("sweeper.training.start", "sweeper.diagnostics"),
    "use_threads": ("sweeper.training.device", "sweeper.train"),
}


def look_up(name: str) -> Any:
    """The object called `name`, from the first module in `HOMES` that has it.

    Raises:
        ImportError: no module has it.
    """
    for module in HOMES[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(
        f"{name} is in none of {', '.join(HOMES[name])}. Add its module to HOMES in benchmarks/hashes.py."
    )


def train(fields: dict[str, Any]) -> dict[str, str]:
    """Train one configuration on the CPU with the embedded sample, and hash what comes out."""
    number = fields.get("experiment", 0)
    others = {name: value for name, value in fields.items() if name != "experiment"}
    others |= {"dataset": "sample", "device": "cpu"}
    config = look_up("experiment")(number, **others) if number else look_up("RunConfig").create(**others)
    images = look_up("load")(config, look_up("resolve")("sample")[1])
    training = look_up("start")(config, images)
    while True:
        try:
            next(training)
        except StopIteration as stop:
            return hashes(stop.value)


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
        print(json.dumps({"name": case["name"], **train(case["fields"])}), flush=True)


if __name__ == "__main__":
    main()
