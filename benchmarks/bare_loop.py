"""Measure the share of the bare training loop's speed that a sweep keeps, with tracking, search and report.

    python -m benchmarks.bare_loop [--models medium small] [--trials 8] [--epochs 3] [--rounds 3] [--save]

The bare loop is `sweeper.train` alone: a process a core, one thread each, which import torch, read the images into
memory, and train their share of the trials; no Optuna, no MLflow, no journal, nothing kept. The sweep is that of
`benchmarks.peers`, `sweeper optimize`, on the same configurations but for the rates that its sampler asks. In each
round both run, the first of them in turn. The share is the bare loop's wall seconds over the sweep's, of the whole
command and, for long sweeps, in which start and end weigh nothing, from the first trial's begin to the last one's end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.hardware import Others, describe, usable_cores
from benchmarks.pages import ROOT, Spread, add_save, command, conclude, head, table
from benchmarks.peers import ours
from benchmarks.peers.recipe import images, trial_config
from sweeper.tracking.reading import read_events


def train_share(model: str, epochs: int, seeds: list[int]) -> float:
    """Train in this process and return the seconds of training alone."""
    from sweeper.training.device import resolve_precision, use_threads
    from sweeper.training.folds import finish
    from sweeper.training.loop import train

    use_threads(1)
    config = trial_config(model, epochs).derive(precision=resolve_precision("auto", "cpu"))
    data = images(config)
    start = perf_counter()
    for seed in seeds:
        finish(train(config.derive(seed=seed), data))
    return perf_counter() - start


def bare(model: str, args: argparse.Namespace) -> dict[str, float]:
    """Train all trials, divided among the processes."""
    workers = usable_cores() or 1
    work = [sys.executable, "-m", "benchmarks.bare_loop", "--models", model, "--epochs", str(args.epochs)]
    start = perf_counter()
    running = [
        subprocess.Popen([*work, "--work", *map(str, range(worker, args.trials, workers))], cwd=ROOT, text=True,
                         stdout=subprocess.PIPE)
        for worker in range(min(workers, args.trials))
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    wall = perf_counter() - start
    if any(process.returncode for process in running):
        raise SystemExit("a process of the bare loop failed")
    return {"wall_s": wall, "training_s": max(json.loads(line) for line in said)}


def sweep(model: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train the same trials by `sweeper optimize`."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        optimize = ours.optimize(home, model, args.trials, args.epochs, seed)
        ran = ours.run_command(optimize, home, sample_memory=False)
        runs = [read_events(path) for path in (home / "journal" / ours.STUDY).glob("[0-9]*")]
    began, ended = min(r[0]["time"] for r in runs), max(r[-1]["time"] for r in runs)
    return {"wall_s": ran.seconds, "training_s": (ended - began) / 1000}


def measure(model: str, number: int, args: argparse.Namespace) -> dict[str, float]:
    """Run one round and return the shares, with the seconds that they are made of."""
    sides = {"bare": lambda: bare(model, args), "sweep": lambda: sweep(model, number, args)}
    with Others() as others:
        order = list(sides)[:: 1 if number % 2 == 0 else -1]
        found = {side: sides[side]() for side in order}
    values = {f"{side}_{name}": value for side, both in found.items() for name, value in both.items()}
    return values | {
        "share": values["bare_wall_s"] / values["sweep_wall_s"],
        "share_of_training": values["bare_training_s"] / values["sweep_training_s"],
        "others": others.cores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("small", "medium"), default=["medium", "small"])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=int, nargs="+", help=argparse.SUPPRESS)  # a process of the bare loop
    add_save(parser)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(train_share(args.models[0], args.epochs, args.work)))
        return
    hardware = describe()
    rounds: dict[str, list[dict[str, float]]] = {model: [] for model in args.models}
    for number in range(args.rounds):
        for model in args.models:
            rounds[model].append(measure(model, number, args))
            print(f"round {number + 1}/{args.rounds}, {model}: {rounds[model][-1]}", flush=True)
    columns = {"bare_wall_s": "bare loop, s", "sweep_wall_s": "sweep, s", "share": "share", "bare_training_s":
               "bare loop, training, s", "sweep_training_s": "sweep, first to last trial, s",
               "share_of_training": "share", "others": "others, cores"}  # fmt: skip
    rows = [[model, *[Spread.of([r[name] for r in its]).show(2) for name in columns]] for model, its in rounds.items()]
    what = f"{args.trials} trials of {args.epochs} epochs; medians [min-max], n = {args.rounds} rounds, in turn."
    parts = head("A sweep against the bare training loop", hardware, what, command("bare_loop", args))
    conclude("bare_loop", hardware, [*parts, table(["model", *columns.values()], rows)], {"rounds": rounds}, args.save)


if __name__ == "__main__":
    main()
