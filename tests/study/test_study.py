"""Ask, report and end trials; go on after another driver."""

from __future__ import annotations

import itertools
import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy

from sweeper.core.config import RunConfig
from sweeper.core.errors import StudyConflict, SweeperError
from sweeper.study.opening import open_study
from sweeper.study.space import Choice, Space
from sweeper.study.study import Study
from tests.study.sweeps import MEMORY, SETTINGS, enqueue, other_program, sweep, train, without_times
from tests.support.optuna_store import stored
from tests.support.refusals import refusal
from tests.support.scored import scored

# --- outcomes ------------------------------------------------------------------------------------


def test_finished_counts_complete_and_pruned_trials_but_not_failed_or_running_ones(study: Study) -> None:
    for _ in range(4):
        study.ask()
    study.complete(0, scored(0.9, 0.3))
    study.prune(1, "slow")
    study.fail(2, "out of memory")
    assert (study.finished(), study.failed()) == (2, 1)
    assert study.running() == 1


def test_rows_say_what_became_of_each_trial(study: Study) -> None:
    configs = [study.ask().config for _ in range(4)]
    for number in (0, 1, 3):
        study.report(number, 1, 0.5)
        study.report(number, 2, 0.7)
    study.complete(0, scored(0.9, 0.3))
    study.prune(1, "slow")
    study.fail(2, "out of memory")
    rows = study.rows()
    assert [(r.number, r.state, r.value, r.loss, r.epochs, r.reason) for r in rows] == [
        (0, "complete", 0.9, 0.3, 2, ""),
        (1, "pruned", 0.7, None, 2, "slow"),
        (2, "failed", None, None, 0, "out of memory"),
        (3, "running", 0.7, None, 2, ""),
    ]
    assert all(r.seconds is not None and r.seconds >= 0 for r in rows)
    assert [r.params["placement"] for r in rows] == [c.placement.value for c in configs]


def test_a_step_reported_twice_keeps_its_first_value(study: Study) -> None:
    trial = study.ask()
    study.report(trial.number, 1, 0.5)
    study.report(trial.number, 1, 0.9)
    assert study.rows()[0].value == 0.5


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(math.nan, 0.3), (math.inf, 0.3), (-math.inf, 0.3), (0.9, math.nan), (0.9, math.inf)]
)
def test_a_value_that_is_not_finite_is_never_told(study: Study, accuracy: float, loss: float) -> None:
    trial = study.ask()
    with pytest.raises(ValueError, match="not finite"):
        study.complete(trial.number, scored(accuracy, loss))
    assert study.rows()[0].state == "running"
    study.prune(trial.number, "diverged")  # and the trial can still be ended
    assert study.rows()[0].state == "pruned"


def test_the_pruner_stops_the_worst_trial_after_its_warm_up() -> None:
    with closing(open_study("demo", replace(SETTINGS, sampler="random", pruner="median"), MEMORY)) as study:
        for accuracy in (0.5, 0.6, 0.7, 0.8, 0.9):
            number = study.ask().number
            assert not any(study.report(number, step, accuracy) for step in range(1, 6))
            study.complete(number, scored(accuracy, 0.3))
        bad = study.ask().number
        assert [study.report(bad, step, 0.1) for step in range(1, 6)] == [False, False, True, True, True]


def test_a_continued_trial_is_judged_at_each_step_as_it_was_before_the_interruption(url: str) -> None:
    settings = replace(SETTINGS, sampler="random", pruner="median")
    with closing(open_study("demo", settings, url)) as study:
        for accuracy in (0.5, 0.6, 0.7, 0.8, 0.9):
            number = study.ask().number
            assert not any(study.report(number, step, accuracy) for step in range(1, 6))
            study.complete(number, scored(accuracy, 0.3))
        bad = study.ask().number
        before = [study.report(bad, step, 0.1) for step in range(1, 4)]
        study.settle()
    with closing(open_study("demo", settings, url)) as study:
        assert [trial.number for trial in study.unfinished()] == [bad]
        again = [study.report(bad, step, 0.1) for step in range(1, 4)]
    assert before == again == [False, False, True]


def test_a_file_that_cannot_be_written_is_no_service_that_went_away(study: Study) -> None:
    full = sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(SweeperError, match=r"cannot be written .*disk is full") as caught, study.answering():
        raise full
    assert caught.value.exit_code == 1


# --- another metric --------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "best"), [("val/accuracy", 0), ("val/loss", 1), ("val/ece", 2)])
def test_the_value_is_of_the_metric_and_accuracy_and_loss_are_kept_beside_it(metric: str, best: int) -> None:
    with closing(open_study("demo", replace(SETTINGS, metric=metric, sampler="random"), MEMORY)) as study:
        for scores in (scored(0.9, 0.5, 0.1), scored(0.8, 0.3, 0.1), scored(0.7, 0.4, 0.02)):
            study.complete(study.ask().number, scores)
        assert [row.value for row in study.rows()][2] == {"val/accuracy": 0.7, "val/loss": 0.4, "val/ece": 0.02}[metric]
        assert [(row.accuracy, row.loss) for row in study.rows()] == [(0.9, 0.5), (0.8, 0.3), (0.7, 0.4)]
        assert all(("val_accuracy" in trial.user_attrs) == (best > 0) for trial in study.trials())  # else as 0.1.0 did
        leader = study.leader()
        assert leader is not None
        assert leader.key == str(best)


def test_the_pruner_stops_the_trial_of_the_highest_loss() -> None:
    settings = replace(SETTINGS, sampler="random", pruner="percentile", metric="val/loss")
    with closing(open_study("demo", settings, MEMORY)) as study:
        for loss in (0.5, 0.6, 0.7, 0.8, 0.9):
            number = study.ask().number
            assert not any(study.report(number, step, loss) for step in range(1, 6))
            study.complete(number, scored(0.5, loss))
        bad, good = study.ask().number, study.ask().number
        assert [study.report(bad, step, 1.1) for step in range(1, 6)] == [False, False, True, True, True]
        assert not any(study.report(good, step, 0.4) for step in range(1, 6))


# --- repetitions -----------------------------------------------------------------------------------


ONE_NETWORK = replace(SETTINGS, space=Space({"batch_size": Choice((64,))}))


def test_a_configuration_that_comes_again_is_trained_with_the_next_seed(url: str) -> None:
    with closing(open_study("demo", ONE_NETWORK, url)) as study:
        study.prune(study.ask().number, "pruned, but its seed is spent")
        study.fail(study.ask().number, "failed, and so is its seed")
        left = study.ask()
        assert (left.repetition, left.config.seed) == (2, ONE_NETWORK.base.seed + 2)
    with closing(open_study("demo", ONE_NETWORK, url)) as study:
        assert list(study.unfinished()) == [left]
        assert study.ask().config == left.config.derive(seed=left.config.seed + 1)


def test_each_configuration_counts_its_own_seeds(study: Study) -> None:
    seen: dict[str, int] = {}
    for _ in range(8):
        asked = study.ask()
        key = asked.config.derive(seed=0).key
        assert asked.repetition == asked.config.seed - SETTINGS.base.seed == seen.get(key, 0)
        seen[key] = seen.get(key, 0) + 1
        study.complete(asked.number, scored(0.9, 0.3))


def test_a_study_of_one_seed_asks_again_and_ends_where_nothing_is_new(url: str) -> None:
    settings = replace(ONE_NETWORK, space=Space({"batch_size": Choice((32, 64))}), one_seed=True)
    with closing(open_study("demo", settings, url)) as study:
        asked = [study.ask(), study.ask()]
        assert sorted(trial.config.batch_size for trial in asked) == [32, 64]
        assert study.ask() is None
        assert (study.finished(), study.failed()) == (0, 0)
        assert {row.state for row in study.rows()} == {"running", "skipped"}


def test_the_leader_is_the_configuration_of_the_best_mean(url: str) -> None:
    settings = replace(ONE_NETWORK, space=Space({"batch_size": Choice((32, 64))}))
    accuracies = {32: iter((0.99, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)), 64: itertools.repeat(0.9)}
    with closing(open_study("demo", settings, url)) as study:
        assert study.leader() is None
        asked = [study.ask() for _ in range(8)]
        for trial in asked:
            study.complete(trial.number, scored(next(accuracies[trial.config.batch_size]), 0.3))
        leader = study.leader()
    with closing(open_study("demo", settings, url)) as study:
        assert study.leader() == leader
    assert leader is not None
    assert asked[int(leader.key)].config.batch_size == 64
    assert leader.n == sum(trial.config.batch_size == 64 for trial in asked)


# --- resuming ------------------------------------------------------------------------------------


TRIALS = 13
TORN = {3, 11}  # asked and reported once, when the driver dies
BETWEEN = {0, 6, 10, 12}  # ended, when the driver dies


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_a_sweep_that_is_killed_and_continued_equals_an_unbroken_one(url: str, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler, seed=5)
    unbroken = sweep(settings, MEMORY, TRIALS)
    assert sweep(settings, url, TRIALS, TORN, BETWEEN) == unbroken
    assert len({trial.config for trial in unbroken[0]}) > TRIALS / 2


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_another_seed_asks_other_trials(sampler: str) -> None:
    def first(seed: int) -> list[RunConfig]:
        with closing(open_study("demo", replace(SETTINGS, sampler=sampler, seed=seed), MEMORY)) as study:
            return [train(study, study.ask()).config for _ in range(3)]

    assert first(0) == first(0) != first(1)


def test_trials_are_resumed_as_they_were_asked_though_several_were_running(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        asked = [study.ask() for _ in range(3)]
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert list(study.unfinished()) == asked
        assert study.ask().number == 3


# --- trials that another program enqueued -----------------------------------------------------------


GIVEN = {"placement": "bn-dropout", "batch_size": 64, "conv_dropout": 0.25}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_an_enqueued_trial_comes_next_with_the_parameters_it_was_given(url: str, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler)
    with closing(open_study("demo", settings, url)) as study:
        train(study, study.ask())
    enqueue(url, **GIVEN)
    enqueue(url, placement="none")
    with closing(open_study("demo", settings, url)) as study:
        assert [row.state for row in study.rows()][1:] == ["waiting", "waiting"]
        first, second, third = study.ask(), study.ask(), study.ask()
        assert [trial.number for trial in (first, second, third)] == [1, 2, 3]
        assert {name: first.config.model_dump(mode="json")[name] for name in GIVEN} == GIVEN
        assert 0.05 <= first.config.head_dropout <= 0.6  # which it was not given
        assert second.config.placement.value == "none"
        assert without_times(stored(url)) == without_times(study.trials())
        study.complete(1, scored(0.9, 0.3))
    with closing(open_study("demo", settings, url)) as study:
        assert list(study.unfinished()) == [second, third]
        assert study.rows()[1].state == "complete"
        assert study.ask().number == 4


def test_what_is_enqueued_while_a_driver_runs_stops_it_and_is_trained_by_the_next_one(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        train(study, study.ask())
        enqueue(url, placement="bn")
        assert "another process has changed it" in refusal(study.ask, StudyConflict)
    with closing(open_study("demo", SETTINGS, url)) as study:
        trial = train(study, study.ask())
        assert (trial.number, trial.config.placement.value) == (1, "bn")
        assert study.ask().number == 2


def test_an_enqueued_trial_that_another_process_has_taken_stops_the_sweep(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    enqueue(url, placement="bn")
    with closing(open_study("demo", SETTINGS, url)) as study:
        with other_program(url) as other:
            assert other.ask().number == 0
        assert "it started trial 0" in refusal(study.ask, StudyConflict)
