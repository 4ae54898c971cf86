"""A list of trials in place of a study, as the source of a driver."""

from __future__ import annotations

import pytest

from sweeper.core.trial import Trial
from sweeper.sweep.driver import Driver
from sweeper.sweep.source import Listed
from sweeper.tracking.base import FAILED
from tests.support.recorder import BASE, DIVERGED, FAILS, LOST, Recorder, Script, describe, epoch


def listed(count: int) -> Listed:
    return Listed(Trial(n, BASE.derive(seed=n)) for n in range(count))


def test_a_list_is_trained_in_its_order():
    recorder, trials = Recorder(), [Trial(n, BASE.derive(seed=n)) for n in (5, 3, 4)]
    assert recorder.drive(5, Listed(trials, finished=2)) == 5
    assert [Trial(*call[1:]) for call in recorder.named("submit")] == trials


def test_a_trial_of_a_list_that_diverges_is_done_and_its_reason_kept():
    source = listed(2)
    assert Recorder({1: [DIVERGED]}).drive(2, source) == 2
    assert source.diverged == {1: "loss nan after epoch 1: lower lr"}


@pytest.mark.parametrize("script", [DIVERGED, (epoch(1, float("nan")),)], ids=["told", "seen"])
def test_a_run_that_diverges_has_the_status_that_the_command_gives_it(script: Script):
    recorder = Recorder({0: [script]})
    Driver(listed(1), recorder, recorder, describe, recorder, diverged=FAILED).run(1)
    assert [call[2] for call in recorder.named("end")] == [FAILED]


@pytest.mark.parametrize(("script", "reason"), [(FAILS, "RuntimeError: no"), (LOST, "the worker process was ended by")])
def test_a_list_that_has_no_more_ends_though_some_of_it_failed(script: Script, reason: str):
    source, recorder = listed(3), Recorder({1: [script]})
    assert recorder.drive(3, source) == 2
    assert list(source.failed) == [1]
    assert source.failed[1].startswith(reason)
    assert [call[2] for call in recorder.named("end") if call[1] == 1][-1] == FAILED
