"""What the journal costs a run: wall time with it over wall time without any record, and the time inside it.

    python -m benchmarks.journal_cost [--exp 1] [--epochs 20] [--rounds 5]

One experiment is trained on the embedded sample by the driver in this process, once with no tracking and once with the
journal alone (`--tracking-uri offline`), in turn, the order changing from round to round; the ratio is that of the two
wall times of a round. It varies with the machine by more than the journal takes, so that the seconds spent in calls of
the journal, each of which ends with an fsync, are reported as a share of the run as well. The default is the smallest
network, for which the journal weighs most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.hardware import THREADS, Others, describe
from sweeper.core.config import RunConfig
from sweeper.core.experiments import experiment
from sweeper.core.trial import Trial
from sweeper.data.fashion import SAMPLE_DIR
from sweeper.engine.serial import SerialEngine
from sweeper.sweep.driver import Driver
from sweeper.sweep.source import Fixed
from sweeper.tracking.base import NullTracker, RunInfo, Tracker
from sweeper.tracking.journal import JournalTracker
from sweeper.training.images import Data, load


class Silent:
    """A view that shows nothing, whatever it is told."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Timed:
    """A tracker, or a log of one, that adds up the seconds spent in its calls."""

    def __init__(self, inner: Any, clock: list[float]) -> None:
        self._inner, self._clock = inner, clock

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._inner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = perf_counter()
            result = call(*args, **kwargs)
            self._clock[0] += perf_counter() - begin
            return Timed(result, self._clock) if name == "start" else result

        return timed


def run_once(config: RunConfig, images: list[Data], tracker: Tracker | Timed) -> float:
    """Wall seconds of one run under the driver."""
    engine = SerialEngine(images, THREADS)
    params = config.to_params()

    def describe_run(trial: Trial) -> RunInfo:
        return RunInfo("key", "benchmark", params, {}, "", f"runs/{trial.number}")

    begin = perf_counter()
    Driver(Fixed([config]), engine, tracker, describe_run, Silent()).run(1)
    return perf_counter() - begin


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Run the rounds, printing a line for each."""
    config = experiment(args.exp, epochs=args.epochs, dataset="sample", split="holdout")
    images = load(config, SAMPLE_DIR)
    run_once(config.derive(epochs=1), images, NullTracker())  # to warm up
    rounds = []
    with Others() as others:
        for number in range(args.rounds):
            clock = [0.0]
            with tempfile.TemporaryDirectory(dir=args.folder) as root:
                journal = Timed(JournalTracker(Path(root)), clock)
                order = [("none", NullTracker()), ("journal", journal)][:: 1 if number % 2 == 0 else -1]
                seconds = {name: run_once(config, images, tracker) for name, tracker in order}
            share = clock[0] / seconds["journal"]
            rounds.append(
                {"seconds": seconds, "ratio": seconds["journal"] / seconds["none"], "share_in_journal": share}
            )
            print(f"round {number + 1}/{args.rounds}: {rounds[-1]}", flush=True)
    ratios, shares = ([r[name] for r in rounds] for name in ("ratio", "share_in_journal"))
    return {"question": "journal_cost", "exp": args.exp, "epochs": args.epochs, "rounds": rounds,
            "ratio_median": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
            "share_median": statistics.median(shares), "share_max": max(shares),
            "other_processes_cores": round(others.cores, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(), help="where the journal is written; default: here")
    args = parser.parse_args()
    hardware = describe()
    print(json.dumps(measure(args) | {"hardware": hardware}))


if __name__ == "__main__":
    main()
