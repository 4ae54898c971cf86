"""What a sweep costs beyond the training in it: wall time over pure training time, and peak memory.

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
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.hardware import describe
from benchmarks.pages import ROOT
from benchmarks.processes import Ran, run


def run_sweep(home: Path, options: list[str], *, sample_memory: bool = False) -> Ran:
    """Run one sweep in `home`."""
    command = [sys.executable, "-m", "sweeper", "optimize", "--study", "bench", *options]
    env = {"SWEEPER_HOME": str(home), "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
    return run(command, home, env, sample_memory=sample_memory)


def trial_seconds(home: Path, study: str = "bench") -> tuple[list[float], float]:
    """Seconds of training and evaluation in each trial, and the UNIX time of the last trial's end.

    The epochs of a trial follow one another without a pause, so that its seconds are those between its first
    and last epoch's end, plus its first epoch, which is taken to last as long as the mean of the others.
    """
    seconds, last = [], 0.0
    for file in sorted((home / "journal" / study).glob("[0-9]*/events.jsonl")):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        ends = [e["time"] / 1000 for e in events if e["event"] == "epoch"]
        per_epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
        seconds.append(per_epoch * len(ends))
        last = max(last, events[-1]["time"] / 1000)
    return seconds, last


def measure(args: argparse.Namespace) -> dict[str, object]:
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
    ratios = [r["ratio"] for r in rounds]
    return {"question": "sweep_overhead", "trials": args.trials, "epochs": args.epochs, "model": args.model,
            "workers": args.workers, "rounds": rounds, "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios), "ratio_max": max(ratios)}  # fmt: skip


def measure_memory(args: argparse.Namespace) -> dict[str, object]:
    """Peak PSS of a two-trial sweep of the medium network on the full data set."""
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
    args = parser.parse_args()
    result = measure_memory(args) if args.memory else measure(args)
    print(json.dumps(result | {"hardware": describe()}))


if __name__ == "__main__":
    main()
