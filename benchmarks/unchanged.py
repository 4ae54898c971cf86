"""Check that seeded trainings give the same numbers, bit for bit, after the code was changed.

    python -m benchmarks.unchanged record FILE [--tree DIR] [--quick]
    python -m benchmarks.unchanged compare FILE [--tree DIR] [--quick]

`record` trains the cases with the code in DIR and writes the SHA-256 of each history, of the weights and of the X-ray's
metrics to FILE. `compare` trains them again and prints every difference; its exit code is 1 if there is one.

The cases are the article's eight experiments and the seven placements on each network size, in fp32 and bf16, with 1
and 2 threads; two folds; and two runs of the `sweeper train` command. All use the embedded sample and two epochs, the
commands one. DIR may hold any version of the package: benchmarks/hashes.py knows where each one keeps its functions.

Hashes hold on one class of machine only: FILE names the processor and the versions, and `compare` warns if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PLACEMENTS: Final = ("none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic")
TRAIN_IMAGES: Final = {"small": 500, "medium": 500, "large": 256}
COMMANDS: Final = (1, 6)  # experiments that are also trained by the command line
COMMAND: Final = "--epochs 1 --dataset sample --device cpu --precision fp32 --tracking-uri none --json"
PACKAGES: Final = ("torch", "numpy")

Hashes = dict[str, dict[str, str]]  # of a case by its name


def cases(*, quick: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the trainings by precision and threads: each has a name, threads, and the fields of a configuration."""
    for precision, threads in [("fp32", 1)] if quick else product(("fp32", "bf16"), (1, 2)):
        end = f"{precision} threads={threads}"
        found = {f"exp{number}": {"experiment": number, "train_images": 500} for number in range(1, 8 if quick else 9)}
        for model, placement in product(("small",) if quick else TRAIN_IMAGES, PLACEMENTS):
            fields = {"model": model, "placement": placement, "train_images": TRAIN_IMAGES[model]}
            found[f"{model} {placement}"] = fields
        if (precision, threads) == ("fp32", 1):
            found["exp1 folds=2"] = {"experiment": 1, "split": "folds", "folds": 2, "train_images": 500}
        yield [
            {"name": f"{name} {end}", "threads": threads, "fields": fields | {"epochs": 2, "precision": precision}}
            for name, fields in found.items()
        ]


def train_cases(group: list[dict[str, Any]], tree: Path) -> Hashes:
    """Train a group of cases in one process."""
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "hashes.py")]
    found: Hashes = {}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "cases.json").open("w+") as given:
        json.dump(group, given)
        given.seek(0)
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment(tree, folder)
        ) as process:
            assert process.stdout
            for line in process.stdout:
                result = json.loads(line)
                name = result.pop("name")
                found[name] = result
                print(f"trained {name}", flush=True)
    if process.returncode:
        raise SystemExit(f"training stopped with exit code {process.returncode} after {len(found)} of {len(group)}")
    return found


def train_commands(tree: Path, *, quick: bool) -> Hashes:
    """Train experiments by `sweeper train`, which uses all cores that this process may run on."""
    found: Hashes = {}
    for number in COMMANDS[: 1 if quick else None]:
        line = f"train --exp {number} {COMMAND}"
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "sweeper", *line.split()],
                stdout=subprocess.PIPE,
                text=True,
                cwd=folder,
                env=environment(tree, folder),
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"sweeper {line} ended with exit code {done.returncode}")
        result = json.loads(done.stdout.splitlines()[-1])
        found[f"sweeper {line}"] = {name: result[name] for name in ("history_sha256", "weights_sha256")}
        print(f"sweeper {line}", flush=True)
    return found


def environment(tree: Path, home: str) -> dict[str, str]:
    """Return the variables of a child process: the code of `tree`, and nothing that configures sweeper or MLflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEPER_", "MLFLOW_"))}
    return kept | {"PYTHONPATH": str(tree), "SWEEPER_HOME": home, "GOMP_SPINCOUNT": "10000"}


def machine() -> dict[str, str]:
    """Return everything besides the code that the hashes depend on."""
    cpu: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
        cpu = {name.strip(): value.strip() for name, _, value in pairs}
    versions = {name: metadata.version(name) for name in PACKAGES}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": cpu.get("model name") or platform.machine(),
        "family and model": f"{cpu.get('cpu family', '')} {cpu.get('model', '')}".strip(),
        "usable cores": str(usable),
        "python": platform.python_version(),
        **versions,
    }


def differences(then: Hashes, now: Hashes, *, quick: bool) -> Iterator[str]:
    """Yield a line for each hash that changed and each case that only one side has."""
    for name in sorted(then.keys() | now.keys()):
        if name not in then:
            yield f"{name}: not in the record"
        elif name not in now:
            if not quick:
                yield f"{name}: recorded, but not trained now"
        else:
            for what in sorted(then[name].keys() | now[name].keys()):
                was, is_now = then[name].get(what), now[name].get(what)
                if was != is_now:
                    yield f"{name}: {what} was {was}, is {is_now}"


def compare(file: Path, now: Hashes, *, quick: bool) -> int:
    """Print how `now` differs from the record in `file`, and return the exit code."""
    record = json.loads(file.read_text())
    here = machine()
    for name in record["machine"].keys() | here.keys():
        was, is_now = record["machine"].get(name), here.get(name)
        if was != is_now:
            print(f"warning: {name} was {was}, is {is_now}; the hashes may differ for that reason alone")
    found = list(differences(record["hashes"], now, quick=quick))
    for line in found:
        print(line)
    print(f"{len(found)} differences in {len(now)} cases, recorded on {record['machine']['processor']}")
    return 1 if found else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path, metavar="FILE", help="the record, as JSON")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose code is run (default: this one)")
    parser.add_argument("--quick", action="store_true", help="experiments 1 to 7 and the small network, fp32, 1 thread")
    parser.add_argument("--jobs", type=int, default=2, help="processes that train at a time (default: 2)")
    args = parser.parse_args()
    if not (args.tree / "sweeper").is_dir():
        parser.error(f"--tree {args.tree}: no package `sweeper` in this directory. Name a checkout.")
    if args.action == "compare" and not args.file.is_file():
        parser.error(f"{args.file} does not exist. Make it with `record`.")
    return args


def main() -> int:
    args = parse()
    tree = args.tree.resolve()
    now: Hashes = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for found in pool.map(lambda group: train_cases(group, tree), cases(quick=args.quick)):
            now |= found
    now |= train_commands(tree, quick=args.quick)
    if args.action == "compare":
        return compare(args.file, now, quick=args.quick)
    args.file.write_text(json.dumps({"machine": machine(), "hashes": now}, indent=1) + "\n")
    print(f"wrote {args.file}: {len(now)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
