"""Measure the cost of a sweep beyond its training: wall time over pure training time, and peak memory.

    python -m benchmarks.sweep_overhead [--trials 20] [--workers 2] [--rounds 3] [--memory]

A sweep is run as a user runs it, `sweeper optimize` with MLflow on a new sqlite database, timed from
the start of the command to the last trial told (the summary, the champion and the last uploads come after,
and are reported apart). Pure training time is what the trials themselves took: the sum over trials of the
seconds between the first step and the last evaluation, over the number of workers. With `--memory`, one
short sweep on the full data set instead, while the proportional set size (PSS) of the driver and its workers
is sampled: shared pages, such as the images, count once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hardware import describe
from benchmarks.pages import ROOT, Spread, add_save, command, conclude, head, table
from benchmarks.processes import Ran, run


def run_sweep(home: Path, options: list[str], *, sample_memory: bool = False) -> Ran:
    """Run one sweep in `home`."""
    optimize = [sys.executable, "-m", "sweeper", "optimize", "--study", "bench", *options]
    env = {"SWEEPER_HOME": str(home), "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
    return run(optimize, home, env, sample_memory=sample_memory)


def trial_seconds(home: Path, study: str = "bench") -> tuple[list[float], float]:
    """Return the seconds of training and evaluation in each trial, and the UNIX time of the last trial's end.

    Its seconds are those between its first and last epoch's end, plus its first epoch, which is taken to last as long
    as the mean of the others. They contain the pauses in which a worker waits for the driver's word.
    """
    seconds, last = [], 0.0
    for file in sorted((home / "journal" / study).glob("[0-9]*/events.jsonl")):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        ends = [e["time"] / 1000 for e in events if e["event"] == "epoch"]
        per_epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
        seconds.append(per_epoch * len(ends))
        last = max(last, events[-1]["time"] / 1000)
    return seconds, last


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds, printing a line for each."""
    common = ["--exp", "6", "--model", args.model, "--dataset", "sample", "--pruner", "none", "--no-final"]
    rounds = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as home:
            options = [*common, "--trials", str(args.trials), "--epochs", str(args.epochs)]
            options += ["--workers", str(args.workers), "--seed", str(number)]
            ran = run_sweep(Path(home), options)
            seconds, last = trial_seconds(Path(home))
        pure = sum(seconds) / args.workers
        rounds.append({"to_last_trial_s": last - ran.started, "wall_s": ran.seconds, "pure_s": pure,
                       "ratio": (last - ran.started) / pure, "ratio_whole_command": ran.seconds / pure})  # fmt: skip
        print(f"round {number + 1}/{args.rounds}: {rounds[-1]}", flush=True)
    return {
        "trials": args.trials,
        "epochs": args.epochs,
        "model": args.model,
        "workers": args.workers,
        "rounds": rounds,
    }


def measure_memory(args: argparse.Namespace) -> dict[str, object]:
    """Return the peak PSS of a two-trial sweep of the medium network on the full data set."""
    with tempfile.TemporaryDirectory() as home:
        options = ["--exp", "7", "--dataset", "fashion-mnist", "--trials", str(args.workers), "--epochs", "1"]
        options += ["--workers", str(args.workers), "--no-final"]
        ran = run_sweep(Path(home), options, sample_memory=True)
    return {
        "question": "sweep_memory",
        "workers": args.workers,
        "peak_pss_mib": round(ran.peak_mib),
        "wall_s": ran.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="medium")
    parser.add_argument("--memory", action="store_true")
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    if args.memory:
        print(json.dumps(measure_memory(args) | {"hardware": hardware}))
        return
    found = measure(args)
    ratios = [Spread.of([r[name] for r in found["rounds"]]) for name in ("ratio", "ratio_whole_command")]
    what = (
        f"{args.trials} trials of {args.epochs} epochs, {args.model} network, embedded sample, {args.workers} workers, "
        "MLflow on a new sqlite database, no pruning. Of the difference, the start of the command and of its workers "
        "is a fixed part: a longer sweep has a smaller ratio. The whole command includes the summary run and the last "
        "uploads. The pauses between epochs, in which a worker waits for the driver's word, count as training."
    )
    rows = [[str(n + 1), f"{r['to_last_trial_s']:.1f}", f"{r['pure_s']:.1f}", f"{r['ratio']:.3f}",
             f"{r['ratio_whole_command']:.3f}"] for n, r in enumerate(found["rounds"])]  # fmt: skip
    header = ["round", "start of the command to the last trial told, s", "pure training in it, s", "ratio",
              "whole command / pure training"]  # fmt: skip
    line = command("sweep_overhead", args)
    parts = [*head("What a sweep costs beyond its training", hardware, what, line), table(header, rows),
             f"Ratios: {ratios[0].show(3)}; {ratios[1].show(3)}; n = {args.rounds}."]  # fmt: skip
    conclude(f"sweep_overhead-{args.epochs}-epochs", hardware, parts, found, args.save)


if __name__ == "__main__":
    main()
