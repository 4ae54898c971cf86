"""SIGINT and SIGTERM while a driver runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import Interrupted
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial
from sweeper.engine.serial import SerialEngine
from sweeper.study.study import Study
from sweeper.sweep.driver import Driver
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed
from sweeper.tracking.base import KILLED
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import read_events
from sweeper.training.images import Data
from tests.support.recorder import BASE, DONE, Recorder, describe, epoch

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
    assert killed_by(tmp_path) == [signum.name] * 2

    assert Recorder().drive(3, reopen(), JournalTracker(tmp_path)) == 3
    assert [row.state for row in reopen().rows()] == ["complete"] * 3


def test_a_signal_is_not_raised_within_an_engine_that_cannot_be_interrupted():
    """The driver first records the events that the wait returns."""
    passed: list[bool] = []

    def strike() -> None:
        signal.raise_signal(signal.SIGINT)
        passed.append(True)

    recorder = Recorder({0: [(epoch(1), strike, *DONE[1:])]}, slots=1, interruptible=False)
    with pytest.raises(Interrupted):
        recorder.drive(3)
    assert passed == [True]
    assert recorder.numbers("ask") == [0]
    assert [call[2] for call in recorder.named("end")] == [KILLED]


def killed_by(root: Path) -> list[str]:
    """The signal that ended each of two runs, both as killed."""
    ends = [read_events(root / f"study/{number:04d}")[-1] for number in (0, 1)]
    assert [(end["event"], end["status"]) for end in ends] == [("end", KILLED)] * 2
    return [end["tags"]["sweeper.reason"].split()[-1] for end in ends]


@SIGNALS
def test_a_signal_in_the_middle_of_an_epoch_is_not_taken_for_a_failed_training(
    monkeypatch: pytest.MonkeyPatch, tiny: Data, signum: signal.Signals, code: int
):
    def interrupted(*_: Any) -> Iterator[EpochResult]:
        signal.raise_signal(signum)
        yield epoch(1)

    monkeypatch.setattr("sweeper.engine.serial.start", interrupted)
    recorder = Recorder()
    driver = Driver(Listed([Trial(0, BASE)]), SerialEngine([tiny], 1), recorder, describe, recorder)
    with pytest.raises(Interrupted) as caught:
        driver.run(1)
    assert caught.value.exit_code == code
    assert [call[2] for call in recorder.named("end")] == [KILLED]


@pytest.mark.parametrize(("moment", "state"), [("epoch", "running"), ("ended", "complete")])
def test_a_signal_while_something_is_recorded_is_raised_after_it(
    reopen: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, moment: str, state: str
):
    recorder, study = Recorder(), reopen()
    monkeypatch.setattr(recorder, moment, lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        recorder.drive(1, study)
    assert [row.state for row in study.rows()] == [state]


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
        """Stands for the end of the process."""

    def end(number: int, _: Any) -> None:
        raise Ended(signal.Signals(number))

    class Sending(Recorder):
        def epoch(self, *_: Any) -> None:
            for signum in sent:
                held.append(signum)
                signal.raise_signal(signum)

    held: list[int] = []
    monkeypatch.setattr(signal, "SIG_DFL", end)
    with pytest.raises(Ended) as caught:
        Sending().drive(1)
    assert held == list(sent)  # all before the last one were held back
    assert caught.value.args == (sent[0],)  # which decides the exit code


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_of_another_kind_ends_nothing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: signal.Signals
):
    """MLflow sends it, a quarter of a second after the Ctrl-C that the terminal sends to all of `mlflow run`."""
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
    assert killed_by(tmp_path) == [first.name] * 2


def test_a_second_signal_does_not_interrupt_what_the_first_one_is_ending(monkeypatch: pytest.MonkeyPatch):
    """For example an engine that is being waited for, and takes a while to close."""
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


@pytest.fixture
def hang_up() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_closed_terminal_interrupts_with_exit_code_129():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Signals() as signals, pytest.raises(Interrupted) as caught, signals.raised():
        signal.raise_signal(signal.SIGHUP)
    assert caught.value.exit_code == 129


@pytest.mark.usefixtures("hang_up")
def test_under_nohup_a_closed_terminal_does_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals, signals.raised():
        signal.raise_signal(signal.SIGHUP)
        signals.check()
