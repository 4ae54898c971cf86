"""Measure the time from `sweeper train --exp 6 --dataset sample` to its first metric.

    python -m benchmarks.first_metric [--rounds 5] [--save]

The command is run as a user runs it, with MLflow on a new sqlite database, for one epoch. The journal says when the
run began and when its first epoch had been recorded; the time before the run began is that of imports, of reading the
images, and of the checks before anything is created. The rest of the command, after the metric, is MLflow's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.hardware import Others, describe
from benchmarks.pages import ROOT, Spread, add_save, command, conclude, head, table
from benchmarks.processes import run
from sweeper.tracking.reading import read_events, run_folders

COMMAND: Final = ("train", "--exp", "6", "--dataset", "sample", "--epochs", "1")
TARGET_SECONDS: Final = 5.0


def once() -> dict[str, float]:
    """Run the command once; return the seconds from its start to each of three moments."""
    with tempfile.TemporaryDirectory() as folder, Others() as others:
        home = Path(folder)
        env = {"SWEEPER_HOME": folder, "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
        ran = run([sys.executable, "-m", "sweeper", *COMMAND], home, env, sample_memory=False)
        [journal] = run_folders(home / "journal")
        begin, epoch = read_events(journal)[:2]
    at = {"run_began_s": begin["time"], "first_metric_s": epoch["time"]}
    return {name: time / 1000 - ran.started for name, time in at.items()} | {
        "command_s": ran.seconds,
        "others": others.cores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    once()  # files come from the disk's cache from here on
    rounds = []
    for number in range(args.rounds):
        rounds.append(once())
        print(f"round {number + 1}/{args.rounds}: {rounds[-1]}", flush=True)
    spreads = {name: Spread.of([r[name] for r in rounds]) for name in rounds[0]}
    what = f"Medians [min-max], n = {args.rounds}, after one to warm up. The target is {TARGET_SECONDS:.0f} s."
    names = {"run_began_s": "the run begins, s", "first_metric_s": "its first metric is recorded, s",
             "command_s": "the command has ended, s", "others": "others, cores"}  # fmt: skip
    parts = head(
        f"From `sweeper {' '.join(COMMAND)}` to its first metric", hardware, what, command("first_metric", args)
    )
    parts.append(table(["after the command", ""], [[names[name], s.show(2)] for name, s in spreads.items()]))
    conclude("first_metric", hardware, parts, {"rounds": rounds}, args.save)


if __name__ == "__main__":
    main()
