"""How much of the accuracy each parameter explains."""

from __future__ import annotations

import math

import optuna
from optuna.trial import FrozenTrial

from sweeper.study.importance import importance_intervals, importances
from sweeper.study.study import Study
from tests.study.sweeps import SETTINGS


def test_importances_wait_for_four_complete_trials(study: Study) -> None:
    for count in range(4):
        assert importances(study.trials()) == []
        study.prune(study.ask().number, "does not count")
        trial = study.ask()
        study.complete(trial.number, 0.5 + count / 10, 0.3)
    found = importances(study.trials())
    assert {name for name, _ in found} <= set(SETTINGS.space.dimensions)
    assert found
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)


def test_importances_of_equal_trials_are_no_error(study: Study) -> None:
    for _ in range(5):
        study.complete(study.ask().number, 0.5, 0.3)
    assert all(math.isfinite(share) for _, share in importances(study.trials()))


def decided(count: int) -> list[FrozenTrial]:
    """Trials whose accuracy is their `head_dropout`; `conv_dropout` decides nothing."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda t: t.suggest_float("head_dropout", 0, 1) + 0 * t.suggest_float("conv_dropout", 0, 1), count)
    return study.trials


def test_importances_come_with_the_interval_of_their_resamples() -> None:
    found = importance_intervals(decided(60), resamples=40)
    assert [row.parameter for row in found] == ["head_dropout", "conv_dropout"]
    first, second = found
    assert first.low > second.high  # what decides all and what decides nothing are told apart
    assert 0 <= second.low <= second.high <= first.low <= first.high <= 1
    assert first.low < first.high
    assert importance_intervals(decided(60), resamples=40) == found


def test_few_trials_leave_importances_open() -> None:
    first, second = importance_intervals(decided(8), resamples=40)
    assert first.low < second.high  # the order is not settled
    assert importance_intervals(decided(3)) == []
