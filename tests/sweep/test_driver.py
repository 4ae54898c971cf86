"""The driver against engines, sources and trackers that do as they are told, and against a real study."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import (
    ConfigError,
    Diverged,
    Interrupted,
    OutOfMemory,
    ServiceUnreachable,
    StudyIncomplete,
    SweeperError,
    TrainingError,
    WorkerLost,
)
from sweeper.core.files import write_whole
from sweeper.core.images import CLASSES
from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.core.trial import Trial
from sweeper.engine.base import Event
from sweeper.engine.serial import SerialEngine
from sweeper.study.opening import open_study
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Space, default_space
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.driver import COPIES, RETRIES, Driver
from sweeper.sweep.progress import PlainView, Progress
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Fixed
from sweeper.tracking import journal
from sweeper.tracking.base import FAILED, FINISHED, KILLED, NullTracker, Recorded, RunInfo
from sweeper.tracking.journal import JournalLog, JournalTracker
from sweeper.tracking.reading import read_events
from sweeper.training.images import Data

EPOCHS = 2
BASE = RunConfig(model="small", epochs=EPOCHS, dataset="sample")


def epoch(number: int, accuracy: float = 0.5) -> EpochResult:
    return EpochResult(number, 1.0, 0.6, 1.1, accuracy, 0.1, 1e-3, 2.0, 0.5, 600.0)


def result(accuracy: float = 0.5, loss: float = 1.1) -> TrainResult:
    history = (*(epoch(n) for n in range(1, EPOCHS)), replace(epoch(EPOCHS, accuracy), val_loss=loss))
    confusion = np.eye(len(CLASSES), dtype=np.int64)
    return TrainResult(history, {"weight": np.zeros(2, np.float32)}, Evaluation(loss, accuracy, 0.1, confusion))


# What a training comes to: its events, or a function that is called in the middle of wait().
Script = Sequence[EpochResult | TrainResult | SweeperError | Callable[[], None]]
DONE: Script = (epoch(1), epoch(2), result())
LOST: Script = (epoch(1), WorkerLost("the worker process was ended by SIGKILL"))
DIVERGED: Script = (Diverged("loss nan after epoch 1: lower lr"),)
FAILS: Script = (epoch(1), TrainingError("RuntimeError: no"))


@dataclass
class Recorder:
    """An engine, a source, a tracker and a view that note every call in one list.

    `scripts` holds, for a trial's number, what its attempts come to; by default, that it is done.
    """

    scripts: Mapping[int, Sequence[Script]] = field(default_factory=dict)
    slots: int = 1
    prunes: Mapping[int, int] = field(default_factory=dict)  # a trial's number: the epoch it is pruned after
    left: Sequence[Trial] = ()  # running since an earlier driver
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

    # the source
    def finished(self) -> int:
        return sum(call[0] in ("complete", "prune") for call in self.calls)

    def unfinished(self) -> Iterator[Trial]:
        return iter(self.left)

    def ask(self) -> Trial:
        number = len(self.left) + self.count("ask")
        self.calls.append(("ask", number, self.finished() + len(self._running)))
        return Trial(number, BASE.derive(seed=number))

    def report(self, number: int, step: int, value: float) -> bool:
        self.calls.append(("report", number, step, value))
        return self.prunes.get(number) == step

    def begin(self) -> None: ...

    def settle(self) -> None: ...

    def complete(self, number: int, accuracy: float, loss: float) -> None:
        self.calls.append(("complete", number, accuracy, loss))

    def prune(self, number: int, reason: str) -> None:
        self.calls.append(("prune", number, reason))

    def fail(self, number: int, reason: str, details: str = "") -> None:
        self.calls.append(("fail", number, reason))

    # the tracker
    def recorded(self, run: RunInfo) -> Recorded | None:
        return None

    def start(self, run: RunInfo) -> RunLog:
        self.calls.append(("start", int(run.key)))
        return RunLog(int(run.key), self.calls)

    def together(self) -> nullcontext[None]:  # the source's as well
        return nullcontext()

    def check(self) -> None: ...

    # the view
    def started(self, trial: Trial) -> None: ...

    def epoch(self, trial: Trial, result: EpochResult) -> None: ...

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        self.calls.append(("ended", trial.number, outcome))

    def tick(self) -> None: ...

    # for the tests
    def drive(self, target: int, source: Any = None, tracker: Any = None, **options: Any) -> int:
        """Run a driver on all this, or on another source or tracker."""
        driver = Driver(source or self, self, tracker or self, describe, self, **options)
        return driver.run(target).finished

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]

    def count(self, name: str) -> int:
        return len(self.named(name))


@dataclass
class RunLog:
    """What one run is told."""

    number: int
    calls: list[tuple[Any, ...]]

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", self.number, step))

    def artifact(self, name: str, content: bytes) -> None:
        self.calls.append(("artifact", self.number, name))

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        self.calls.append(("end", self.number, status, tags))


def describe(trial: Trial) -> RunInfo:
    return RunInfo(str(trial.number), "", {}, {}, "", folder=f"study/{trial.number:04d}")


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Opens the one study of a test, as another process would after the last one ended."""
    opened: list[Study] = []

    def open_it(space: Space | None = None, **base: Any) -> Study:
        for study in opened:
            study.close()
        settings = StudySettings(BASE.derive(**base), space or default_space(), "0" * 64, sampler="random")
        opened.append(open_study("study", settings, f"sqlite:///{tmp_path / 'sweeper.db'}"))
        return opened[-1]

    yield open_it
    opened[-1].close()


# --- exactly N -----------------------------------------------------------------------------------------

TROUBLE = {
    "none": Recorder(),
    "prunes": Recorder(prunes={0: 1, 3: 1}),
    "diverging": Recorder({1: [DIVERGED], 2: [DIVERGED]}),
    "failures": Recorder({0: [FAILS], 2: [FAILS], 3: [FAILS]}),
    "lost-once": Recorder({0: [LOST, DONE], 4: [LOST, LOST, DONE]}),
    "lost-for-good": Recorder({0: [LOST], 5: [LOST]}),
    "everything": Recorder({0: [LOST, DONE], 1: [FAILS], 2: [DIVERGED], 6: [LOST, FAILS]}, prunes={0: 1, 4: 1}),
}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_a_sweep_ends_with_exactly_the_trials_that_were_asked_for(trouble: Recorder, slots: int):
    recorder = Recorder(trouble.scripts, slots, trouble.prunes)
    assert recorder.drive(8) == 8
    assert recorder.finished() == 8
    assert recorder.count("ask") == 8 + recorder.count("fail")
    told = [call[1] for call in recorder.named("complete", "prune", "fail")]
    assert sorted(told) == list(range(recorder.count("ask")))  # each once


@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_ends_with_exactly_the_trials_that_were_asked_for(reopen: Callable[..., Study], slots: int):
    study = reopen()
    recorder = Recorder(TROUBLE["everything"].scripts, slots)
    assert recorder.drive(8, study) == 8
    states = [row.state for row in study.rows()]
    assert states.count("complete") + states.count("pruned") == 8
    assert states.count("failed") == len(states) - 8
    assert [row.number for row in study.rows()] == list(range(len(states)))


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_more_is_asked_than_is_missing(slots: int):
    recorder = Recorder({1: [FAILS], 2: [LOST, DONE]}, slots)
    recorder.drive(4)
    assert all(finished_or_running < 4 for _, _, finished_or_running in recorder.named("ask"))


def test_a_sweep_that_is_done_asks_for_nothing(reopen: Callable[..., Study]):
    Recorder().drive(3, reopen())
    again = Recorder()
    assert again.drive(3, reopen()) == 3
    assert again.calls == []


# --- what becomes of a trial ---------------------------------------------------------------------------


def test_a_lost_trial_is_trained_again_with_its_configuration_twice_then_replaced():
    recorder = Recorder({0: [LOST]})
    recorder.drive(1)
    attempts = [config for _, key, config in recorder.named("submit") if key == 0]
    assert attempts == [attempts[0]] * (1 + RETRIES)
    assert RETRIES == 2
    assert recorder.named("fail") == [("fail", 0, "the worker process was ended by SIGKILL")]
    assert [call[1] for call in recorder.named("ask")] == [0, 1]
    assert [call[:3] for call in recorder.named("end")] == [("end", 0, FAILED)] * 3 + [("end", 1, FINISHED)]
    assert [call[3]["sweeper.state"] for call in recorder.named("end")] == ["lost", "lost", "failed", "complete"]


def test_a_trial_that_diverges_is_pruned_with_the_reason(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen()
    Recorder({0: [DIVERGED]}).drive(1, study, JournalTracker(tmp_path))
    (row,) = study.rows()
    assert (row.state, row.reason) == ("pruned", "loss nan after epoch 1: lower lr")
    end = read_events(tmp_path / "study/0000")[-1]
    assert end["tags"] == {"sweeper.state": "pruned", "sweeper.reason": row.reason}


def test_pruning_closes_the_training_and_keeps_what_it_measured():
    recorder = Recorder(prunes={0: 1})
    recorder.drive(1)
    kinds = [call[0] for call in recorder.calls if call[0] not in ("ask", "artifact")]
    assert kinds == ["start", "submit", "report", "cancel", "log", "end", "prune", "ended"]
    assert recorder.named("log") == [("log", 0, 1)]
    (end,) = recorder.named("end")
    assert end[3]["sweeper.state"] == "pruned"
    assert "epoch 1" in end[3]["sweeper.reason"]


def test_a_trial_is_not_pruned_after_its_last_epoch():
    recorder = Recorder(prunes={0: EPOCHS})
    recorder.drive(1)
    assert recorder.named("cancel", "prune") == []
    assert recorder.count("complete") == 1


def test_the_study_prunes_the_worst_quarter(reopen: Callable[..., Study]):
    good = [epoch(n, 0.9) for n in range(1, 6)]
    bad = [epoch(n, 0.1) for n in range(1, 6)]
    study = reopen(epochs=5)
    scripts = {number: [(*good, result(0.9))] for number in range(5)} | {5: [(*bad, result(0.1))]}
    recorder = Recorder(scripts)
    recorder.drive(6, study)
    assert [row.state for row in study.rows()] == ["complete"] * 5 + ["pruned"]
    assert recorder.named("cancel") == [("cancel", 5)]
    assert study.rows()[5].epochs < 5


def test_a_finished_trial_leaves_its_weights_and_hashes():
    recorder = Recorder()
    recorder.drive(1)
    names = [call[2] for call in recorder.named("artifact")]
    assert names == ["config.json", "model/state.safetensors", "evaluation/confusion.csv"]
    ((_, _, status, tags),) = recorder.named("end")
    assert (status, tags["sweeper.state"]) == (FINISHED, "complete")
    assert tags["sweeper.history_sha256"] == result().history_sha256
    assert tags["sweeper.weights_sha256"] == result().weights_sha256


@pytest.mark.parametrize(("script", "told"), [(DONE, "complete"), (DIVERGED, "prune"), (FAILS, "fail"), (LOST, "fail")])
def test_the_journal_has_the_end_before_the_study_is_told(script: Script, told: str):
    recorder = Recorder({0: [script]})
    recorder.drive(1)
    order = [call[0] for call in recorder.calls if call[1:2] == (0,) and call[0] in ("end", told)]
    assert order[-2:] == ["end", told]


def in_database(path: Path) -> list[tuple[str, int]]:
    """State and number of reported values of each trial, as another process reads them."""
    return [(row.state, row.epochs) for row in read_study("study", f"sqlite:///{path / 'sweeper.db'}").rows]


class Watched(JournalTracker):
    """A journal that looks, before and after what was recorded in a block is written, at what the database holds."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before: list[Any] = []
        self.after: list[Any] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        with super().together():
            yield
            self.before.append((sorted(path.parent.name for path in self.root.glob("study/*/events.jsonl")),
                                in_database(self.root)))  # fmt: skip
        self.after.append((self.recorded_ends(), in_database(self.root)))

    def recorded_ends(self) -> int:
        return sum(path.read_text().count('"event": "end"') for path in self.root.glob("study/*/events.jsonl"))


def test_a_pass_writes_parameters_then_the_journal_then_the_study(reopen: Callable[..., Study], tmp_path: Path):
    """Whenever the process dies: no run without its trial in the study, no trial that is told before its run is."""
    tracker = Watched(tmp_path)
    Recorder({n: [(epoch(1), epoch(2), result())] for n in range(3)}, slots=3).drive(3, reopen(), tracker)
    begun, first, second, ended = tracker.before[:4]
    assert begun == ([], [("running", 0)] * 3)  # and nothing of them in the journal
    assert first[1] == [("running", 0)] * 3
    assert second[1] == [("running", 1)] * 3
    assert ended[1] == [("running", 2)] * 3
    assert tracker.after[3] == (3, [("running", 2)] * 3)
    assert in_database(tmp_path) == [("complete", 2)] * 3


def test_what_the_journal_could_not_take_is_not_told_to_the_study(
    reopen: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tracker, full = JournalTracker(tmp_path), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write = write_whole

    def refuse(path: Path, content: bytes) -> None:
        if path.name == "state.safetensors" and "0001" in path.parts:
            raise full
        write(path, content)

    monkeypatch.setattr(journal, "write_whole", refuse)
    with pytest.raises(OSError, match="No space"):
        Recorder(slots=3).drive(3, reopen(), tracker)
    reopen().close()
    assert in_database(tmp_path) == [("running", 2)] * 3
    assert [read_events(tmp_path / f"study/{n:04d}")[-1]["event"] for n in range(3)] == ["end", "epoch", "end"]
    monkeypatch.undo()
    tracker.reconcile("study")
    assert read_events(tmp_path / "study/0001")[-1]["status"] == KILLED
    assert Recorder(slots=3).drive(3, reopen(), tracker) == 3
    assert in_database(tmp_path) == [("complete", 2)] * 3


def test_an_error_that_ends_a_sweep_leaves_what_came_before_it_told(reopen: Callable[..., Study], tmp_path: Path):
    recorder = Recorder({1: [(ConfigError("no"),)], 0: [(result(),)]}, slots=2)
    with pytest.raises(ConfigError):
        recorder.drive(2, reopen(), JournalTracker(tmp_path))
    assert in_database(tmp_path) == [("complete", 0), ("failed", 0)]


def test_a_trial_is_lost_and_begun_again_within_one_pass(reopen: Callable[..., Study], tmp_path: Path):
    assert Recorder({0: [LOST, DONE]}).drive(1, reopen(), JournalTracker(tmp_path)) == 1
    kinds = [event["event"] for event in read_events(tmp_path / "study/0000")]
    assert kinds == ["start", "epoch", "end", "start", "epoch", "end"]


@pytest.mark.parametrize(("accuracy", "loss"), [(math.nan, 1.0), (0.5, math.nan), (0.5, math.inf)])
def test_a_value_that_is_not_finite_never_reaches_the_study(reopen: Callable[..., Study], accuracy: float, loss: float):
    study = reopen()
    assert Recorder({0: [(epoch(1), result(accuracy, loss))]}).drive(1, study) == 1
    (row,) = study.rows()
    assert (row.state, row.value) == ("pruned", 0.5)  # of its first epoch
    assert " is nan" in row.reason or " is inf" in row.reason


@pytest.mark.parametrize("wrong", [{"val_accuracy": math.nan}, {"val_loss": math.inf}, {"grad_norm": math.inf}])
def test_an_epoch_that_is_not_finite_prunes_its_trial_and_is_recorded_nowhere(wrong: dict[str, float]):
    recorder = Recorder({0: [(epoch(1), replace(epoch(2), **wrong), result())]})
    assert recorder.drive(2) == 2
    assert [call[1:3] for call in recorder.named("report") if call[1] == 0] == [(0, 1)]
    ((_, _, reason),) = recorder.named("prune")
    assert reason.startswith("epoch 2: ")
    assert ("cancel", 0) in recorder.calls


def test_memory_that_ran_out_is_tried_again_with_the_same_configuration():
    recorder = Recorder({0: [(epoch(1), OutOfMemory("OutOfMemoryError: no memory")), DONE]})
    assert recorder.drive(1) == 1
    first, second = recorder.named("submit")
    assert first == second
    assert not recorder.named("fail")


def test_no_retries_is_possible():
    recorder = Recorder({0: [LOST]})
    assert recorder.drive(1, retries=0) == 1
    assert [call[1] for call in recorder.named("submit")] == [0, 1]


def test_a_wrong_configuration_ends_the_sweep_at_once():
    recorder = Recorder({1: [(epoch(1), ConfigError("batch_size=1: no"))]})
    with pytest.raises(ConfigError, match="batch_size=1: no"):
        recorder.drive(9)
    assert [call[1] for call in recorder.named("fail")] == [1]
    assert recorder.count("ask") == 2


def test_the_traceback_of_a_failure_is_kept(reopen: Callable[..., Study]):
    error = TrainingError("RuntimeError: no")
    error.details = "Traceback: line 7"
    study = reopen()
    recorder = Recorder({0: [(error,)]})
    recorder.drive(1, study)
    assert study.trials()[0].user_attrs["traceback"] == "Traceback: line 7"
    ends = [call for call in recorder.calls if call[0] == "end" and call[1] == 0]
    assert "Traceback: line 7" in str(ends)


def test_results_are_kept_where_they_are_wanted():
    kept, dropped = (Driver(r, r, r, describe, r, keep_results=k) for r, k in ((Recorder(), True), (Recorder(), False)))
    assert list(kept.run(2).results) == [0, 1]
    assert dropped.run(2).results == {}


# --- a network that was trained before -----------------------------------------------------------------


@dataclass
class Twins(Recorder):
    """Every trial but the first is a twin of it."""

    def ask(self) -> Trial:
        trial = super().ask()
        return trial if trial.number == 0 else Trial(trial.number, BASE.derive(seed=0), twin=0)


def test_a_twin_of_a_finished_trial_gets_its_result_without_training(tmp_path: Path):
    recorder = Twins({0: [(epoch(1), epoch(2, 0.7), result(0.7, 0.9))]})
    assert recorder.drive(3, tracker=JournalTracker(tmp_path)) == 3
    assert [call[1] for call in recorder.named("submit")] == [0]
    assert recorder.named("complete") == [("complete", n, 0.7, 0.9) for n in range(3)]
    assert [call[2:] for call in recorder.named("report") if call[1] == 2] == [(1, 0.5), (2, 0.7)]
    first, twin = (read_events(tmp_path / f"study/{n:04d}") for n in (0, 2))
    measured = [{k: v for k, v in e["metrics"].items() if not k.startswith("time/")} for e in first[1:3]]
    assert [e["metrics"] for e in twin[1:3]] == measured
    assert twin[-1]["metrics"] == first[-1]["metrics"]
    assert twin[-1]["tags"]["sweeper.copy_of"] == "0"


def test_a_twin_of_which_the_journal_holds_another_run_is_trained(tmp_path: Path):
    JournalTracker(tmp_path).start(replace(describe(Trial(0, BASE)), key="of another study")).end(
        FINISHED, {"final/val_accuracy": 1.0, "final/val_loss": 0.0}, {}
    )
    recorder = Twins(left=[Trial(1, BASE, twin=0)])
    assert recorder.drive(1, tracker=JournalTracker(tmp_path)) == 1
    assert [call[1] for call in recorder.named("submit")] == [1]


class Refusing(Recorder):
    """The view does not take one of the trials."""

    refused: int = 3

    def started(self, trial: Trial) -> None:
        if trial.number == self.refused:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class OfOneNetwork(Watched):
    """A journal of a study, which counts the runs of each block."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun: list[int] = []

    def start(self, run: RunInfo) -> JournalLog:
        self.begun[-1] += 1
        return super().start(run)

    @contextmanager
    def together(self) -> Iterator[None]:
        self.begun.append(0)
        with super().together():
            yield


ONE_NETWORK = Space({"batch_size": Choice([128])})


def test_a_pass_copies_a_limited_number_of_trials(reopen: Callable[..., Study], tmp_path: Path):
    """Each has an open file until the pass is written, and no signal ends the pass."""
    tracker, trials = OfOneNetwork(tmp_path), 3 * COPIES
    assert Recorder().drive(trials, reopen(space=ONE_NETWORK), tracker) == trials
    assert max(tracker.begun) == COPIES
    assert in_database(tmp_path) == [("complete", 2)] * trials


def test_left_over_trials_are_ended_a_limited_number_at_a_time(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen()
    for _ in range(3 * COPIES + 2):
        study.ask()
    tracker = OfOneNetwork(tmp_path)
    assert Recorder().drive(1, reopen(), tracker) == 1
    assert max(tracker.begun) == COPIES
    assert sorted(row.state for row in reopen().rows()) == ["complete", *["failed"] * (3 * COPIES + 1)]


@pytest.mark.parametrize("how", ["journal", "view"])
def test_a_copy_is_in_the_study_only_if_it_is_in_the_journal(
    reopen: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    """No later driver would make up for it."""
    assert Recorder().drive(1, reopen(space=ONE_NETWORK), JournalTracker(tmp_path)) == 1
    write = write_whole

    def refuse(path: Path, content: bytes) -> None:
        if "0003" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    recorder = Recorder() if how == "journal" else Refusing()
    if how == "journal":
        monkeypatch.setattr(journal, "write_whole", refuse)
    with pytest.raises(OSError, match=r"No space|Broken pipe"):
        recorder.drive(6, reopen(space=ONE_NETWORK), JournalTracker(tmp_path))
    left = ("running", 0) if how == "journal" else ("complete", 2)
    assert in_database(tmp_path) == [("complete", 2), *[left] * 5]
    monkeypatch.undo()
    again = Recorder()
    assert again.drive(6, reopen(space=ONE_NETWORK), JournalTracker(tmp_path)) == 6
    assert again.count("submit") == 0
    ends = [read_events(tmp_path / f"study/{number:04d}")[-1] for number in range(6)]
    assert [end["status"] for end in ends] == [FINISHED] * 6
    assert in_database(tmp_path) == [("complete", 2)] * 6


def test_nothing_is_trained_or_shown_whose_run_could_not_be_started(reopen: Callable[..., Study], tmp_path: Path):
    (tmp_path / "study").touch()  # where a folder should be
    recorder = Refusing()
    recorder.refused = 0
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        recorder.drive(1, reopen(), JournalTracker(tmp_path))
    assert recorder.count("submit") == 0


def test_a_twin_of_a_trial_that_is_copied_in_the_same_pass_is_not_trained(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen(space=ONE_NETWORK)
    left, other = study.ask(), study.ask()
    study.complete(other.number, 0.5, 1.1)
    log = JournalTracker(tmp_path).start(describe(other))
    log.end(FINISHED, {"final/val_accuracy": 0.5, "final/val_loss": 1.1}, {})
    assert left.number < other.number
    recorder = Recorder(slots=3)
    assert recorder.drive(4, reopen(space=ONE_NETWORK), JournalTracker(tmp_path)) == 4
    assert recorder.count("submit") == 0


def test_an_error_that_ends_a_sweep_is_not_hidden_by_one_that_follows(
    reopen: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, settle = reopen(), Study.settle

    def fails() -> None:
        if study.failed():
            raise ServiceUnreachable("away")
        settle(study)

    monkeypatch.setattr(study, "settle", fails)
    with pytest.raises(ConfigError) as caught:
        Recorder({0: [(ConfigError("no"),)]}).drive(1, study, JournalTracker(tmp_path))
    assert isinstance(caught.value.__cause__, ServiceUnreachable)


def test_a_twin_of_which_nothing_is_recorded_is_trained():
    recorder = Twins()
    assert recorder.drive(3, tracker=NullTracker()) == 3
    assert [call[1] for call in recorder.named("submit")] == [0, 1, 2]


# --- going on after another driver ---------------------------------------------------------------------


def test_trials_that_were_left_running_come_before_any_new_one():
    left = [Trial(0, BASE), Trial(1, BASE.derive(seed=1))]
    recorder = Recorder(left=left, slots=3)
    recorder.drive(4)
    assert [Trial(*call[1:]) for call in recorder.named("submit")][:2] == left
    assert recorder.count("ask") == 2


@pytest.mark.parametrize(("target", "trained"), [(3, [0]), (2, []), (4, [0, 1])])
def test_trials_left_running_that_are_not_wanted_are_ended(target: int, trained: list[int]):
    left = [Trial(n, BASE.derive(seed=n)) for n in range(2)]
    recorder = Recorder(left=left)
    recorder.calls += [("complete", 8, 0.5, 1.0), ("complete", 9, 0.5, 1.0)]  # of an earlier driver
    assert recorder.drive(target) == target
    assert [call[1] for call in recorder.named("submit")] == trained
    assert [call[1] for call in recorder.named("fail")] == [n for n in range(2) if n not in trained]
    assert recorder.count("ask") == 0


def test_a_trial_left_running_waits_for_a_worker_that_is_closing_another():
    recorder = Recorder(left=[Trial(n, BASE.derive(seed=n)) for n in (0, 1)], prunes={0: 1})
    assert recorder.drive(2) == 2
    assert recorder.count("ask") == 0


def test_a_study_goes_on_with_the_parameters_its_trials_had(reopen: Callable[..., Study]):
    study = reopen()
    asked = [study.ask() for _ in range(2)]
    recorder = Recorder()
    assert recorder.drive(4, reopen()) == 4
    assert [Trial(*call[1:]) for call in recorder.named("submit")][:2] == asked
    assert [row.number for row in reopen().rows()] == [0, 1, 2, 3]


def test_a_sweep_with_enqueued_trials_ends_with_exactly_the_trials_that_were_asked_for(
    reopen: Callable[..., Study], tmp_path: Path
):
    reopen().close()
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'sweeper.db'}")
    theirs = optuna.load_study(study_name="study", storage=storage)
    for size in (64, 512, 32, 128):
        theirs.enqueue_trial({"placement": "none", "batch_size": size})
    storage.engine.dispose()
    recorder = Recorder({1: [FAILS], 2: [LOST, DONE]}, slots=2)
    assert recorder.drive(3, reopen()) == 3
    study = reopen()
    assert [row.state for row in study.rows()] == ["complete", "failed", "complete", "complete"]
    assert [row.params["batch_size"] for row in study.rows()] == [64, 512, 32, 128]
    assert Recorder().drive(5, study) == 5
    assert [row.number for row in reopen().rows()] == list(range(6))


# --- giving up -----------------------------------------------------------------------------------------


def failing(*numbers: int, alike: bool) -> dict[int, list[Script]]:
    return {n: [(TrainingError("RuntimeError: no" if alike else f"ValueError: {'abcdefghi'[n]}"),)] for n in numbers}


def test_errors_that_differ_in_a_number_are_alike():
    scripts = {n: [(TrainingError(f"RuntimeError: cannot allocate {n} MiB"),)] for n in range(9)}
    with pytest.raises(StudyIncomplete, match="the first 3 trials failed alike"):
        Recorder(scripts).drive(20)


@pytest.mark.parametrize(
    ("failures", "target", "asked", "message"),
    [
        (failing(*range(9), alike=True), 20, 3, "the first 3 trials failed alike: RuntimeError: no"),
        (failing(*range(9), alike=False), 20, 4, "4 trials failed, too many to go on; the last: ValueError: d"),
        (failing(1, 2, 3, 4, alike=True), 20, 5, "4 trials failed"),
        (failing(*range(1, 10), alike=True), 60, 8, "7 trials failed"),  # of 60 wanted, a tenth may
    ],
    ids=["alike-from-the-start", "four-of-few", "alike-after-a-success", "more-than-a-tenth"],
)
def test_too_many_failures_end_the_sweep(
    failures: Mapping[int, Sequence[Script]], target: int, asked: int, message: str
):
    recorder = Recorder(failures)
    with pytest.raises(StudyIncomplete, match=message) as caught:
        recorder.drive(target)
    assert caught.value.exit_code == 3
    assert recorder.count("ask") == asked


def test_after_the_deadline_nothing_is_asked_and_what_runs_is_finished(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(monotonic=lambda: 10.0)
    monkeypatch.setattr("sweeper.sweep.driver.time", clock)
    recorder = Recorder({1: [(epoch(1), lambda: setattr(clock, "monotonic", lambda: 30.0), epoch(2), result())]})
    with pytest.raises(StudyIncomplete, match="2 of 5 trials finished before --timeout"):
        recorder.drive(5, deadline=20.0)
    assert recorder.count("ask") == recorder.count("complete") == 2


def test_what_makes_tracking_impossible_ends_the_sweep_and_its_runs(monkeypatch: pytest.MonkeyPatch):
    def deleted() -> None:
        if recorder.count("log"):
            raise SweeperError("the experiment was deleted")

    recorder = Recorder()
    monkeypatch.setattr(recorder, "check", deleted)
    with pytest.raises(SweeperError, match="deleted"):
        recorder.drive(2)
    assert [call[:3] for call in recorder.calls[-3:]] == [("close",), ("end", 0, KILLED), ("ended", 0, "killed")]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC], ids=["broken-pipe", "full-disk"])
def test_a_stdout_that_takes_no_more_ends_every_run(
    reopen: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def breaks(trial: Trial, *_: Any) -> None:
        told.append(trial.number)
        raise OSError(number, os.strerror(number), "<stdout>")

    told: list[int] = []
    recorder = Recorder({0: [(epoch(1), result())], 1: [(epoch(1),) * 9], 2: [(epoch(1),) * 9]}, slots=3)
    monkeypatch.setattr(recorder, "ended", breaks)
    with pytest.raises(OSError, match=os.strerror(number)):
        recorder.drive(4, reopen(), JournalTracker(tmp_path))
    ends = [read_events(tmp_path / f"study/{n:04d}")[-1] for n in range(3)]
    assert [(end["event"], end["status"]) for end in ends] == [("end", FINISHED), ("end", KILLED), ("end", KILLED)]
    assert told == [0, 1, 2]
    assert Recorder().drive(4, reopen(), JournalTracker(tmp_path)) == 4


# --- signals -------------------------------------------------------------------------------------------

SIGNALS = pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@SIGNALS
def test_a_signal_ends_the_runs_and_leaves_the_trials_to_be_continued(
    reopen: Callable[..., Study], tmp_path: Path, signum: signal.Signals, code: int
):
    before = signal.getsignal(signum)
    study = reopen()
    recorder = Recorder({1: [(epoch(1), lambda: signal.raise_signal(signum))]}, slots=2)
    with pytest.raises(Interrupted) as caught:
        recorder.drive(3, study, JournalTracker(tmp_path))
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) is before
    assert recorder.count("close") == 1
    assert [row.state for row in study.rows()] == ["running", "running"]
    for number in (0, 1):
        *_, end = read_events(tmp_path / f"study/{number:04d}")
        assert (end["event"], end["status"]) == ("end", KILLED)
        assert signum.name in end["tags"]["sweeper.reason"]

    assert Recorder().drive(3, reopen(), JournalTracker(tmp_path)) == 3
    assert [row.state for row in reopen().rows()] == ["complete"] * 3


@SIGNALS
def test_a_signal_in_the_middle_of_an_epoch_is_not_taken_for_a_failed_training(
    monkeypatch: pytest.MonkeyPatch, tiny: Data, signum: signal.Signals, code: int
):
    def interrupted(*_: Any) -> Iterator[EpochResult]:
        signal.raise_signal(signum)
        yield epoch(1)

    monkeypatch.setattr("sweeper.engine.serial.start", interrupted)
    recorder = Recorder()
    driver = Driver(Fixed([BASE]), SerialEngine([tiny], 1), recorder, describe, recorder)
    with pytest.raises(Interrupted) as caught:
        driver.run(1)
    assert caught.value.exit_code == code
    assert [call[2] for call in recorder.named("end")] == [KILLED]


@pytest.mark.parametrize("moment", ["epoch", "ended"])
def test_a_signal_while_something_is_recorded_is_raised_after_it(
    reopen: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, moment: str
):
    recorder, study = Recorder(), reopen()
    monkeypatch.setattr(recorder, moment, lambda trial, *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        recorder.drive(1, study)
    assert [row.state for row in study.rows()] == [{"epoch": "running", "ended": "complete"}[moment]]


@pytest.mark.parametrize(
    "sent",
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM, signal.SIGTERM),
    ],
    ids=lambda sent: " ".join(signum.name for signum in sent),
)
def test_a_second_signal_of_a_kind_is_not_held_back(monkeypatch: pytest.MonkeyPatch, sent: Sequence[signal.Signals]):
    class Ended(BaseException):
        """What the system would do."""

    def end(number: int, _: Any) -> None:
        raise Ended(signal.Signals(number))

    def send() -> None:
        *before, last = sent
        for signum in before:
            signal.raise_signal(signum)
        held.append(len(before))
        signal.raise_signal(last)

    held: list[int] = []
    monkeypatch.setattr(signal, "SIG_DFL", end)
    recorder = Recorder()
    monkeypatch.setattr(recorder, "epoch", lambda *_: send())
    with pytest.raises(Ended) as caught:
        recorder.drive(1)
    assert held == [len(sent) - 1]
    assert caught.value.args == (sent[0],)  # which decides the exit code


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_of_another_kind_ends_nothing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: signal.Signals
):
    """As MLflow sends it, a quarter of a second after the Ctrl-C that the terminal sends to all of `mlflow run`."""
    second = signal.SIGTERM if first == signal.SIGINT else signal.SIGINT
    monkeypatch.setattr(signal, "SIG_DFL", lambda *_: pytest.fail("ended at once"))
    recorder = Recorder({1: [(epoch(1), lambda: signal.raise_signal(first))]}, slots=2)
    monkeypatch.setattr(recorder, "close", lambda: signal.raise_signal(second))
    with Signals() as signals:
        with pytest.raises(Interrupted) as caught:
            recorder.drive(3, tracker=JournalTracker(tmp_path), signals=signals)
        assert caught.value.exit_code == 128 + first
        with pytest.raises(Interrupted) as caught:
            signals.check()
        assert caught.value.exit_code == 128 + first
    for number in (0, 1):
        *_, end = read_events(tmp_path / f"study/{number:04d}")
        assert (end["event"], end["status"]) == ("end", KILLED)
        assert first.name in end["tags"]["sweeper.reason"]


def test_a_second_signal_does_not_interrupt_what_the_first_one_is_ending(monkeypatch: pytest.MonkeyPatch):
    """An engine that is waited for when the first one comes, and that takes a while to leave."""
    monkeypatch.setattr(signal, "SIG_DFL", lambda *_: pytest.fail("ended at once"))
    left = []

    def leave_late() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            left.append("whole")

    with Signals() as signals, signals.raised(), pytest.raises(Interrupted, match="SIGINT"):
        leave_late()
    assert left == ["whole"]


# --- a fixed list as a source --------------------------------------------------------------------------


def test_a_list_of_configurations_is_trained_in_its_order():
    recorder = Recorder()
    assert recorder.drive(3, Fixed([BASE.derive(seed=s) for s in (5, 3, 4)])) == 3
    assert [config.seed for _, _, config in recorder.named("submit")] == [5, 3, 4]


def test_a_configuration_that_diverges_is_done_and_its_reason_kept():
    source = Fixed([BASE, BASE])
    Recorder({1: [DIVERGED]}).drive(2, source)
    assert source.outcomes == {1: "loss nan after epoch 1: lower lr"}


@pytest.mark.parametrize("script", [DIVERGED, (epoch(1, float("nan")),)], ids=["told", "seen"])
def test_what_diverges_has_the_status_that_the_command_gives_it(script: Script):
    recorder = Recorder({0: [script]})
    Driver(Fixed([BASE]), recorder, recorder, describe, recorder, diverged=FAILED).run(1)
    assert [call[2] for call in recorder.named("end")] == [FAILED]


@pytest.mark.parametrize("script", [FAILS, LOST], ids=["error", "lost"])
def test_a_configuration_that_fails_ends_the_list(script: Script):
    recorder = Recorder({0: [script]})
    with pytest.raises(TrainingError):
        recorder.drive(2, Fixed([BASE, BASE]))
    assert recorder.named("end")[-1][2] == FAILED


def test_a_list_that_has_no_more_ends_though_some_of_it_failed():
    recorder = Recorder({1: [FAILS]})
    ask = recorder.ask
    recorder.ask = lambda: ask() if recorder.count("ask") < 3 else None  # type: ignore[method-assign]
    assert recorder.drive(3) == 2
    assert recorder.count("ask") == 3


def test_a_driver_needs_neither_tracking_nor_a_terminal(capsys: pytest.CaptureFixture[str]):
    recorder = Recorder()
    view = PlainView(Progress(target=2), sys.stdout)
    assert Driver(recorder, recorder, NullTracker(), describe, view).run(2).finished == 2
    assert len(capsys.readouterr().out.splitlines()) == 2
