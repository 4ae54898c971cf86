"""An engine, a source, a tracker and a view that do as they are told, and note every call of a driver in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, SweeperError, TrainingError, WorkerLost
from sweeper.core.metric import ACCURACY, Metric
from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.core.trial import Trial
from sweeper.data.fashion import CLASSES
from sweeper.engine.base import Event
from sweeper.sweep.driver import Driver
from sweeper.tracking.base import Recorded, RunInfo

EPOCHS = 2
BASE = RunConfig(model="small", epochs=EPOCHS, dataset="sample")


def epoch(number: int, accuracy: float = 0.5) -> EpochResult:
    return EpochResult(number, 1.0, 0.6, 1.1, accuracy, 0.1, 1e-3, 2.0, 0.5, 600.0)


def result(accuracy: float = 0.5, loss: float = 1.1) -> TrainResult:
    history = (*(epoch(n) for n in range(1, EPOCHS)), replace(epoch(EPOCHS, accuracy), val_loss=loss))
    confusion = np.eye(len(CLASSES), dtype=np.int64)
    evaluation = Evaluation(loss, accuracy, 0.1, confusion, classes=CLASSES)
    return TrainResult(history, {"weight": np.zeros(2, np.float32)}, evaluation)


# The events of a training, or functions that are called in the middle of wait().
Script = Sequence[EpochResult | TrainResult | SweeperError | Callable[[], None]]
DONE: Script = (epoch(1), epoch(2), result())
LOST: Script = (epoch(1), WorkerLost("the worker process was ended by SIGKILL"))
DIVERGED: Script = (Diverged("loss nan after epoch 1: lower lr"),)
FAILS: Script = (epoch(1), TrainingError("RuntimeError: no"))


def describe(trial: Trial) -> RunInfo:
    return RunInfo(str(trial.number), "", {}, {}, "", folder=f"study/{trial.number:04d}")


@dataclass
class Recorder:
    """All parts of a driver. `scripts` holds the events of each attempt of a trial, by default those of a success."""

    scripts: Mapping[int, Sequence[Script]] = field(default_factory=dict)
    slots: int = 1
    interruptible: bool = True
    prunes: Mapping[int, int] = field(default_factory=dict)  # a trial's number: the epoch it is pruned after
    left: Sequence[Trial] = ()  # running since an earlier driver
    metric: Metric = ACCURACY
    values: list[float | None] = field(default_factory=list)  # of the trials that ended, as the view saw them
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running: dict[int, list[Any]] = {}
        self._attempts: dict[int, int] = {}
        self._closing: set[int] = set()  # cancelled, and as in a worker process not gone before the next wait()

    # the engine
    def free(self) -> int:
        return self.slots - len(self._running) - len(self._closing)

    def submit(self, key: int, config: RunConfig) -> None:
        assert self.free() > 0
        self.calls.append(("submit", key, config))
        attempt = self._attempts.get(key, 0)
        self._attempts[key] = attempt + 1
        scripts = self.scripts.get(key, [DONE])
        self._running[key] = list(scripts[min(attempt, len(scripts) - 1)])

    def wait(self, timeout: float) -> list[Event]:
        events = []
        self._closing.clear()
        for key in list(self._running):
            what = self._running[key].pop(0)
            if not isinstance(what, EpochResult | TrainResult | SweeperError):
                what()
                continue
            if not isinstance(what, EpochResult):
                del self._running[key]
            events.append(Event(key, what))
        return events

    def cancel(self, key: int) -> None:
        self.calls.append(("cancel", key))
        del self._running[key]
        self._closing.add(key)

    def close(self) -> None:
        self.calls.append(("close",))
        self._running.clear()

    def hold(self) -> None:
        self.calls.append(("hold",))

    def release(self) -> None:
        self.calls.append(("release",))
        self._running.clear()

    def resize(self, slots: int) -> None:
        self.calls.append(("resize", slots))
        self.slots = slots

    # the source
    def finished(self) -> int:
        return sum(call[0] in ("complete", "prune") for call in self.calls)

    def unfinished(self) -> Iterator[Trial]:
        return iter(self.left)

    def ask(self) -> Trial | None:
        number = len(self.left) + self.count("ask")
        self.calls.append(("ask", number, self.finished() + len(self._running)))
        return Trial(number, BASE.derive(seed=number))

    def report(self, number: int, step: int, value: float) -> bool:
        self.calls.append(("report", number, step, value))
        return self.prunes.get(number) == step

    def begin(self) -> None: ...

    def settle(self) -> None: ...

    def complete(self, number: int, final: Mapping[str, float]) -> None:
        self.calls.append(("complete", number, final))

    def prune(self, number: int, reason: str) -> None:
        self.calls.append(("prune", number, reason))

    def fail(self, number: int, reason: str, details: str = "") -> None:
        self.calls.append(("fail", number, reason))

    def skip(self, number: int, reason: str) -> None:
        self.calls.append(("skip", number, reason))

    # the tracker
    def recorded(self, run: RunInfo) -> Recorded | None:
        return None

    def start(self, run: RunInfo) -> RunLog:
        self.calls.append(("start", int(run.key)))
        return RunLog(int(run.key), self.calls)

    def together(self) -> nullcontext[None]:  # of the source too
        return nullcontext()

    def check(self) -> None: ...

    # the view
    def started(self, trial: Trial) -> None: ...

    def epoch(self, trial: Trial, result: EpochResult) -> None: ...

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        self.calls.append(("ended", trial.number, outcome, *([reason] if reason else [])))
        self.values.append(value)

    def say(self, words: str) -> None:
        self.calls.append(("say", words))

    def tick(self) -> None: ...

    # for the tests
    def drive(self, target: int, source: Any = None, tracker: Any = None, **options: Any) -> int:
        """Run a driver on all this, or on another source or tracker, and return the number of finished trials."""
        source = source or self
        Driver(source, self, tracker or self, describe, self, **options).run(target)
        return source.finished()

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]

    def numbers(self, name: str) -> list[int]:
        return [call[1] for call in self.named(name)]

    def count(self, name: str) -> int:
        return len(self.named(name))


@dataclass
class RunLog:
    """The log of one run."""

    number: int
    calls: list[tuple[Any, ...]]

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", self.number, step))

    def artifact(self, name: str, content: bytes) -> None:
        self.calls.append(("artifact", self.number, name))

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        self.calls.append(("end", self.number, status, tags))
