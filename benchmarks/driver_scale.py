"""How many epoch results a second the driver handles, and how late, with as many trials in flight as a cluster trains.

    python -m benchmarks.driver_scale [--in-flight 64 256 1024] [--pace 1] [--tracking offline mlflow] [--save]

Driver, journal (with fsync), Optuna study in SQLite and, with `mlflow`, the uploader and an MLflow store in SQLite are
the real ones. The engine is a stub: each of its trainings finishes an epoch every `--pace` seconds, spread evenly over
them, whether or not the driver has taken the one before. So the load is one result in that time and trial. The lag is
the time from the moment at which an epoch is due to the one at which the driver has handled it. The figures are those
of the seconds after `--warm-up`, in which the first trials are asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import math
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any, Final

import numpy as np

from benchmarks.hardware import Others, describe
from benchmarks.pages import add_save, conclude, head, table
from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.core.trial import Trial
from sweeper.engine.base import Event
from sweeper.study.opening import open_study
from sweeper.study.space import default_space
from sweeper.study.study import StudySettings
from sweeper.sweep.driver import Driver
from sweeper.tracking.base import RunInfo, Tracker
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.upload import Figures

COLUMNS: Final = {
    "in flight": "in_flight", "tracking": "tracking", "results a second": "results_per_s",
    "lag, median s": "lag_median_s", "lag, 99 % s": "lag_p99_s", "trials ended a second": "trials_ended_per_s",
    "cores of the driver's thread": "driver_thread_cores", "memory, MB": "memory_mb", "open files": "open_files",
    "runs not in MLflow yet": "runs_not_in_mlflow_yet", "others, cores": "other_processes_cores",
}  # fmt: skip
ENDLESS: Final = 1_000_000  # trials
EVALUATION: Final = Evaluation(0.5, 0.8, 0.1, np.eye(10, dtype=np.int64))
WEIGHTS: Final = {"weights": np.zeros(22_000, np.float32)}  # as many as the small network has


class Stub:
    """An engine whose trainings are due by the clock."""

    interruptible = True

    def __init__(self, slots: int, epochs: int, pace: float) -> None:
        self.slots = slots
        self._epochs, self._pace = epochs, pace  # seconds an epoch
        self._due: list[tuple[float, int, int]] = []  # time, key, epoch
        self._histories: dict[int, list[EpochResult]] = {}
        self._last: dict[int, int] = {}  # epoch
        self.due: dict[tuple[int, int], float] = {}
        self._begun = 0

    def free(self) -> int:
        """Slots without a training."""
        return self.slots - len(self._histories)

    def submit(self, key: int, config: RunConfig) -> None:
        """Begin a training. The first ones are spread over an epoch, and end evenly over the epochs, as if they had
        begun long before: else all would end, and others begin, at once, and none between."""
        del config
        spread = self._begun % self.slots / self.slots
        self._begun += 1
        first = self._begun <= self.slots
        self._histories[key] = []
        self._last[key] = max(1, math.ceil(self._epochs * self._begun / self.slots)) if first else self._epochs
        heapq.heappush(self._due, (perf_counter() + self._pace * (1 + spread * first), key, 1))

    def wait(self, timeout: float) -> list[Event]:
        """What is due, at most one event a training."""
        while self._due and self._due[0][1] not in self._histories:
            heapq.heappop(self._due)
        sleep(max(0.0, min(timeout, self._due[0][0] - perf_counter())) if self._due else timeout)
        events: dict[int, Event] = {}
        late = []
        while self._due and self._due[0][0] <= perf_counter():
            due, key, epoch = heapq.heappop(self._due)
            if key in events:  # one event a training
                late.append((due, key, epoch))
            elif key in self._histories:
                events[key] = self._event(due, key, epoch)
        for each in late:
            heapq.heappush(self._due, each)
        return list(events.values())

    def _event(self, due: float, key: int, epoch: int) -> Event:
        history = self._histories[key]
        if epoch > self._last[key]:
            del self._histories[key]
            return Event(key, TrainResult(tuple(history), WEIGHTS, EVALUATION))
        accuracy = 0.6 + key % 97 / 1_000 + 0.2 * epoch / self._epochs
        history.append(EpochResult(epoch, 0.6, accuracy, 0.7, accuracy, 0.1, 1e-3, 2.0, self._pace, 6_000.0))
        self.due[key, epoch] = due
        heapq.heappush(self._due, (due + (self._pace if epoch < self._last[key] else 0), key, epoch + 1))
        return Event(key, history[-1])

    def cancel(self, key: int) -> None:
        """Forget the training."""
        del self._histories[key]

    def close(self) -> None:
        """Forget all."""
        self._histories.clear()


class Over(Exception):
    """The time of a measurement is over."""


class Lags:
    """A view that notes when each epoch was handled, and ends the sweep when its time is over."""

    def __init__(self, engine: Stub, end: float) -> None:
        self._engine, self._end = engine, end
        self.handled: list[tuple[float, float]] = []  # time, lag
        self.ends: list[float] = []
        self.open_files = 0

    def started(self, trial: Trial) -> None:
        """Of no interest."""

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Note when it was handled."""
        now = perf_counter()
        self.handled.append((now, now - self._engine.due.pop((trial.number, result.epoch))))

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        """Note when."""
        if outcome != "killed":  # by the end of the measurement
            self.ends.append(perf_counter())

    def tick(self) -> None:
        """End the sweep when its time is over."""
        if perf_counter() > self._end:
            self.open_files = open_files()
            raise Over


def memory_mb() -> float:
    """Resident memory of this process, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def open_files() -> int:
    """Number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def make_tracker(kind: str, root: Path) -> Tracker:
    if kind == "offline":
        return JournalTracker(root / "journal")
    undrawn = Figures(lambda *_: b"", lambda *_: b"")
    return MlflowTracker(root / "journal", f"sqlite:///{root / 'mlflow.db'}", undrawn, print)


def measure(args: argparse.Namespace, in_flight: int, tracking: str, root: Path) -> dict[str, Any]:
    """One sweep of `in_flight` trials at a time, cut off after its seconds."""
    engine = Stub(in_flight, args.epochs, args.pace)
    base = RunConfig(model="small", epochs=args.epochs, dataset="sample")
    settings = StudySettings(base, default_space(), "0" * 64, sampler=args.sampler, pruner=args.pruner)
    study = open_study("scale", settings, f"sqlite:///{root / 'sweeper.db'}")
    tracker = make_tracker(tracking, root)

    def describe_run(trial: Trial) -> RunInfo:
        return RunInfo(f"{study.uid}/{trial.number}", f"{trial.number:03d}", trial.config.to_params(),
                       {"sweeper.trial": str(trial.number)}, "", f"scale/{trial.number:05d}")  # fmt: skip

    began = perf_counter()
    view = Lags(engine, began + args.warm_up + args.seconds)
    cpu = thread_time()
    with Others() as others, contextlib.suppress(Over):
        Driver(study, engine, tracker, describe_run, view).run(ENDLESS)
    cpu = thread_time() - cpu
    wall = perf_counter() - began
    memory = memory_mb()
    behind = tracker.close(0)
    study.close()
    after, end = began + args.warm_up, began + args.warm_up + args.seconds
    lags = sorted(lag for time, lag in view.handled if after < time <= end)
    return {
        "in_flight": in_flight,
        "tracking": tracking,
        "results_per_s": round(len(lags) / args.seconds, 1),
        "trials_ended_per_s": round(sum(after < time <= end for time in view.ends) / args.seconds, 2),
        "lag_median_s": round(statistics.median(lags), 4) if lags else None,
        "lag_p99_s": round(lags[int(0.99 * (len(lags) - 1))], 4) if lags else None,
        "driver_thread_cores": round(cpu / wall, 2),
        "memory_mb": round(memory),
        "open_files": view.open_files,
        "runs_not_in_mlflow_yet": behind,
        "other_processes_cores": round(others.cores, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--tracking", nargs="+", choices=["offline", "mlflow"], default=["offline", "mlflow"])
    parser.add_argument("--epochs", type=int, default=60, help="of a trial")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds an epoch")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=30.0)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--pruner", default="percentile")
    parser.add_argument("--folder", type=Path, default=Path(), help="where journal and databases are written")
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    rows = []
    for tracking in args.tracking:
        for in_flight in args.in_flight:
            # MLflow's uploader may still be carrying the last run
            with tempfile.TemporaryDirectory(dir=args.folder, ignore_cleanup_errors=True) as root:
                rows.append(measure(args, in_flight, tracking, Path(root)))
            print(rows[-1], flush=True)
    what = (
        f"Each trial in flight finishes an epoch every {args.pace:g} s, {args.epochs} epochs a trial; "
        f"sampler {args.sampler}, pruner {args.pruner}; {args.seconds:g} s after {args.warm_up:g} s to warm up, "
        "once each. The target is 100 results a second with 64 in flight."
    )
    line = (
        f"python -m benchmarks.driver_scale --in-flight {' '.join(map(str, args.in_flight))} --pace {args.pace:g} "
        f"--epochs {args.epochs} "
        f"--seconds {args.seconds:g} --warm-up {args.warm_up:g} --tracking {' '.join(args.tracking)}"
    )
    parts = [*head("How many epoch results a second the driver handles", hardware, what, line),
             table(list(COLUMNS), [[str(row[key]) for key in COLUMNS.values()] for row in rows])]  # fmt: skip
    conclude("driver_scale", hardware, parts, {"rows": rows}, args.save)


if __name__ == "__main__":
    main()
