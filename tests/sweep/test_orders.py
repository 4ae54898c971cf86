"""Orders to a driver: pause, resume, stop, skip and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sweeper.core.errors import Stopped
from sweeper.study.control import PAUSE, STOP, Orders
from sweeper.tracking.base import KILLED
from tests.support.recorder import DONE, Recorder, epoch, result

PAUSED = Orders(PAUSE)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders are looked for in every pass, and a pause takes no time."""
    monkeypatch.setattr("sweeper.sweep.driver.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("sweeper.sweep.driver.TICK_SECONDS", 0.0)


def told(*orders: Orders) -> Callable[[], Orders]:
    """Give these orders in turn, one a pass; the last one stays."""
    given: Iterator[Orders] = iter(orders)
    last = [Orders()]

    def tell() -> Orders:
        last[0] = next(given, last[0])
        return last[0]

    return tell


def test_a_paused_driver_waits_for_nothing_and_begins_nothing() -> None:
    recorder = Recorder(slots=2)
    assert recorder.drive(3, orders=told(Orders(), PAUSED, PAUSED, PAUSED, Orders())) == 3
    calls = [call[0] for call in recorder.calls]
    paused = calls[calls.index("say") : len(calls) - calls[::-1].index("say")]
    assert set(paused) == {"say"}
    assert recorder.count("hold") == 1
    assert recorder.named("say") == [("say", "paused; continue with sweeper resume"), ("say", "resumed")]
    assert recorder.count("submit") == 3


def test_a_long_pause_frees_the_workers_and_trains_again_with_the_same_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeper.sweep.driver.PAUSE_SECONDS", -1.0)
    recorder = Recorder(slots=2)
    assert recorder.drive(3, orders=told(Orders(), PAUSED, PAUSED, PAUSED, Orders())) == 3
    assert recorder.count("release") == 1
    assert [call[1:] for call in recorder.named("end") if call[2] == KILLED] == [
        (n, KILLED, {"sweeper.state": "killed", "sweeper.reason": "paused for more than -0 minutes"}) for n in (0, 1)
    ]
    configs = {call[1]: call[2] for call in recorder.named("submit")}
    assert recorder.numbers("submit") == [0, 1, 0, 1, 2]
    assert all(call[2] == configs[call[1]] for call in recorder.named("submit"))


def test_a_driver_that_is_told_to_stop_leaves_its_trials_to_the_next_one() -> None:
    recorder = Recorder(slots=2)
    with pytest.raises(Stopped, match="Run the same command again to continue") as caught:
        recorder.drive(3, orders=told(Orders(), Orders(STOP)))
    assert caught.value.exit_code == 3
    assert [call[2] for call in recorder.named("end")] == [KILLED, KILLED]
    assert recorder.named("complete", "prune", "fail", "skip") == []
    assert recorder.count("close") == 1


def test_a_skipped_trial_is_replaced_by_another() -> None:
    recorder = Recorder(slots=2)
    assert recorder.drive(3, orders=told(Orders(), Orders(skipped=frozenset({1, 77})))) == 3
    assert recorder.numbers("cancel") == [1]
    assert recorder.numbers("skip") == [1]
    assert [call[3]["sweeper.state"] for call in recorder.named("end") if call[1] == 1] == ["skipped"]
    assert recorder.numbers("complete") == [0, 2, 3]


def test_the_number_of_workers_is_changed() -> None:
    script = (epoch(1), *DONE[1:-1], result())
    recorder = Recorder({0: [script]})
    assert recorder.drive(4, orders=told(Orders(), Orders(workers=3))) == 4
    assert recorder.named("resize") == [("resize", 3)]
    assert ("say", "workers: 3 at a time") in recorder.calls
