"""The order in which a pass of the driver writes to the study and the journal, and what ends when a write fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import ConfigError, RecordError, ServiceUnreachable
from sweeper.core.trial import Trial
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Space
from sweeper.study.study import Study
from sweeper.sweep.driver import MOST_DROPPED
from sweeper.tracking.base import KILLED, RunInfo
from sweeper.tracking.journal import JournalLog, JournalTracker
from sweeper.tracking.reading import read_events
from tests.support.recorder import DONE, LOST, Recorder, result

ONE_NETWORK = Space({"batch_size": Choice([128])})


def in_database(path: Path) -> list[tuple[str, int]]:
    """State and number of reported values of each trial, as another process reads them."""
    return [(row.state, row.epochs) for row in read_study("study", f"sqlite:///{path / 'sweeper.db'}").rows]


class Watched(JournalTracker):
    """A journal that notes, before and after each block is written, what the database holds; and the runs it began."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.begun: list[int] = []

    def start(self, run: RunInfo) -> JournalLog:
        self.begun[-1] += 1
        return super().start(run)

    @contextmanager
    def together(self) -> Iterator[None]:
        self.begun.append(0)
        with super().together():
            yield
            self.before.append((self._events('"event"'), in_database(self.root)))
        self.after.append((self._events('"event": "end"'), in_database(self.root)))

    def _events(self, kind: str) -> int:
        return sum(path.read_text().count(kind) for path in self.root.glob("study/*/events.jsonl"))


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """A folder stands where a file is to be written."""
    path.mkdir(parents=True)
    yield
    path.rmdir()


def test_a_pass_writes_parameters_then_the_journal_then_the_study(reopen: Callable[..., Study], tmp_path: Path):
    """Whenever the process dies: no run without its trial in the study, no trial that is told before its run is."""
    tracker = Watched(tmp_path)
    Recorder(slots=3).drive(3, reopen(), tracker)
    begun, first, second, ended = tracker.before[:4]
    assert begun == (0, [("running", 0)] * 3)
    assert first[1] == [("running", 0)] * 3
    assert second[1] == [("running", 1)] * 3
    assert ended[1] == [("running", 2)] * 3
    assert tracker.after[3] == (3, [("running", 2)] * 3)
    assert in_database(tmp_path) == [("complete", 2)] * 3


def test_what_the_journal_could_not_take_is_not_told_to_the_study(reopen: Callable[..., Study], tmp_path: Path):
    tracker = JournalTracker(tmp_path)
    with unwritable(tmp_path / "study/0001/artifacts/model/state.safetensors"):
        with pytest.raises(OSError, match="directory"):
            Recorder(slots=3).drive(3, reopen(), tracker)
        reopen().close()
    assert in_database(tmp_path) == [("running", 2)] * 3
    assert [read_events(tmp_path / f"study/{n:04d}")[-1]["event"] for n in range(3)] == ["end", "epoch", "end"]
    tracker.reconcile("study")
    assert read_events(tmp_path / "study/0001")[-1]["status"] == KILLED
    assert Recorder(slots=3).drive(3, reopen(), tracker) == 3
    assert in_database(tmp_path) == [("complete", 2)] * 3


def test_an_error_that_ends_a_sweep_leaves_what_came_before_it_told(reopen: Callable[..., Study], tmp_path: Path):
    recorder = Recorder({1: [(ConfigError("no"),)], 0: [(result(),)]}, slots=2)
    with pytest.raises(ConfigError):
        recorder.drive(2, reopen(), JournalTracker(tmp_path))
    assert in_database(tmp_path) == [("complete", 0), ("failed", 0)]


def test_an_error_that_ends_a_sweep_is_not_hidden_by_one_that_follows():
    class Away(Recorder):
        def settle(self) -> None:
            if self.count("fail"):
                raise ServiceUnreachable("away")

    with pytest.raises(ConfigError) as caught:
        Away({0: [(ConfigError("no"),)]}).drive(1)
    assert isinstance(caught.value.__cause__, ServiceUnreachable)


def test_a_trial_is_lost_and_begun_again_within_one_pass(reopen: Callable[..., Study], tmp_path: Path):
    assert Recorder({0: [LOST, DONE]}).drive(1, reopen(), JournalTracker(tmp_path)) == 1
    kinds = [event["event"] for event in read_events(tmp_path / "study/0000")]
    assert kinds == ["start", "epoch", "end", "start", "epoch", "end"]


class Refusing(Recorder):
    """The view does not take one of the trials."""

    refused: int = 3

    def started(self, trial: Trial) -> None:
        if trial.number == self.refused:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_nothing_is_trained_or_shown_whose_run_could_not_be_started(reopen: Callable[..., Study], tmp_path: Path):
    (tmp_path / "study").touch()  # where a folder should be
    recorder = Refusing()
    recorder.refused = 0
    with pytest.raises(RecordError, match="study/0000 is not a regular file or folder"):
        recorder.drive(1, reopen(), JournalTracker(tmp_path))
    assert recorder.count("submit") == 0


def test_trials_left_over_are_ended_a_limited_number_at_a_time(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen()
    with study.together():
        for _ in range(MOST_DROPPED + 3):
            study.ask()
        study.begin()
    tracker = Watched(tmp_path)
    assert Recorder().drive(1, reopen(), tracker) == 1
    assert max(tracker.begun) == MOST_DROPPED
    assert sorted(row.state for row in reopen().rows()) == ["complete", *["failed"] * (MOST_DROPPED + 2)]
