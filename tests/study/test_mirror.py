"""A study in memory and the database behind it hold the same, at every moment at which the process may die."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from sweeper.core.errors import StudyConflict
from sweeper.study.opening import open_study
from tests.study.sweeps import SETTINGS, Killed, enqueue, other_program, sweep, without_times
from tests.support.optuna_store import stored
from tests.support.scored import scored

SMALL = replace(SETTINGS, base=SETTINGS.base.derive(epochs=4), seed=3)


def test_a_driver_may_die_at_any_transaction(tmp_path: Path, killed_at: Callable[[int], None]):
    """The next one ends with what an unbroken sweep does, also of a trial that was enqueued, and of a sampler that
    counts."""
    settings, begun = replace(SMALL, sampler="qmc"), tmp_path / "begun.db"
    open_study("demo", settings, f"sqlite:///{begun}").close()
    enqueue(f"sqlite:///{begun}", placement="bn-dropout")

    def prepared(name: str) -> str:
        return f"sqlite:///{shutil.copy(begun, tmp_path / name)}"

    _, unbroken = sweep(settings, prepared("unbroken"), 3)
    for nth in range(1, 1_000):
        url = prepared(str(nth))
        killed_at(nth)
        try:
            sweep(settings, url, 3)
        except Killed:
            _, continued = sweep(settings, url, 3)
            assert continued == unbroken, nth
        else:
            break
    assert nth > 30  # transactions of three trials


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_optuna_reads_from_the_database_what_the_memory_holds(url: str, sampler: str):
    with closing(open_study("demo", replace(SMALL, sampler=sampler), url)) as study:
        for number in range(4):
            study.ask()
            study.report(number, 1, 0.5)
            study.settle()
            assert without_times(stored(url)) == without_times(study.trials())
        study.report(2, 2, 0.6)  # not settled: its end writes it
        study.complete(2, scored(0.6, 0.4))
        study.prune(1, "worst")
        study.fail(0, "no", "a traceback")
        before = without_times(study.trials())
        assert without_times(stored(url)) == before
    with closing(open_study("demo", replace(SMALL, sampler=sampler), url)) as again:
        assert without_times(again.trials()) == before
        assert [trial.number for trial in again.unfinished()] == [3]
        again.report(3, 1, 0.9)  # the first report stands
        again.report(3, 2, 0.7)
        again.complete(3, scored(0.7, 0.3))
        assert stored(url)[3].intermediate_values == {1: 0.5, 2: 0.7}
        assert without_times(stored(url)) == without_times(again.trials())


def test_a_trial_that_was_torn_while_it_was_asked_is_completed(url: str):
    with closing(open_study("demo", SMALL, url)) as study:
        asked = study.ask()
    with other_program(url) as torn:
        torn.ask()  # a driver of an earlier version, killed before it wrote a parameter
    with closing(open_study("demo", SMALL, url)) as study:
        first, second = study.unfinished()
    assert first[:2] == asked[:2]
    written = stored(url)[1]
    assert written.params["placement"] == second.config.placement.value
    assert written.user_attrs["repetition"] == second.repetition


def test_trials_that_begin_and_end_together_are_written_as_one_by_one(url: str):
    with closing(open_study("demo", SMALL, url)) as study, study.together():
        numbers = [study.ask().number for _ in range(4)]
        study.complete(3, scored(0.9, 0.2))  # a copy of another trial's result, before it is written at all
        assert stored(url) == []
        study.begin()
        assert [trial.state.name for trial in stored(url)] == ["RUNNING"] * 4
        assert "val_loss" not in stored(url)[3].user_attrs  # which a training of it might contradict
        for number in numbers[:3]:
            study.report(number, 1, 0.5)
        study.complete(2, scored(0.6, 0.4))
        study.prune(1, "worst")
        study.fail(0, "no", "a traceback")
        assert [trial.state.name for trial in stored(url)] == ["RUNNING"] * 4
        study.settle()
        assert without_times(stored(url)) == without_times(study.trials())


def test_what_is_not_written_when_an_error_ends_the_block_is_dropped(url: str):
    with closing(open_study("demo", SMALL, url)) as study:
        with contextlib.suppress(KeyError), study.together():
            study.ask()
            study.begin()
            study.complete(0, scored(0.5, 0.1))
            study.ask()
            raise KeyError
        study.settle()
    assert [trial.state.name for trial in stored(url)] == ["RUNNING"]


# --- another process writes to the study ------------------------------------------------------------


def test_a_trial_that_another_process_adds_stops_the_sweep_before_it_writes(url: str):
    with closing(open_study("demo", SMALL, url)) as study, study.together():
        study.ask()
        study.begin()
        with other_program(url) as other:
            other.ask()
        study.ask()
        study.ask()
        with pytest.raises(StudyConflict, match="has changed it: it added trial 1"):
            study.begin()
    assert len(stored(url)) == 2


@pytest.mark.parametrize("how", ["deleted", "ended"])
def test_trials_that_another_process_ends_or_deletes_stop_the_sweep(url: str, how: str):
    with closing(open_study("demo", SMALL, url)) as study:
        study.ask()
        study.report(0, 1, 0.5)
        with other_program(url) as other:
            other.tell(0, state=optuna.trial.TrialState.FAIL)
        if how == "deleted":
            optuna.delete_study(study_name="demo", storage=url)
        with pytest.raises(StudyConflict, match=f"it {how} a running trial"):
            study.complete(0, scored(0.5, 0.1))
    if how == "ended":
        assert stored(url)[0].intermediate_values == {}
