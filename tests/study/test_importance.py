"""How far each parameter decides which trials are the best."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from sweeper.core.metric import ACCURACY, LOSS
from sweeper.study.importance import FEWEST, Importance, importances
from sweeper.study.study import Study
from tests.study.sweeps import SETTINGS
from tests.support.scored import scored

BATCHES = [32, 64, 128, 256, 512]
ACCURACIES = {"bn": 0.95, "ic": 0.6, "dropout": 0.5}


def simulated(count: int, accuracy: Callable[..., float]) -> list[FrozenTrial]:
    """Trials whose rates exist in two of three placements, which are far worse than the third."""
    noise = random.Random(0)

    def objective(trial: Trial) -> float:
        placement = trial.suggest_categorical("placement", list(ACCURACIES))
        batch = trial.suggest_categorical("batch_size", BATCHES)
        rates = {}
        if placement != "bn":
            rates = {name: trial.suggest_float(name, 0.0, 0.6) for name in ("conv_dropout", "head_dropout")}
        return ACCURACIES[placement] + accuracy(BATCHES.index(batch), **rates) + noise.gauss(0, 0.002)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(objective, count)
    return study.trials


def by_name(found: list[Importance]) -> dict[str, Importance]:
    return {each.parameter: each for each in found}


def test_a_rate_that_decides_within_its_placements_is_found() -> None:
    """No trial with a rate is among the best of all, so that the importance over all trials is 0."""
    trials = simulated(90, lambda batch, conv_dropout=0.0, **_: 0.001 * batch - 0.3 * conv_dropout)
    found = by_name(importances(trials, ACCURACY, resamples=40))
    conv, head = found["conv_dropout"], found["head_dropout"]
    assert conv.share > 0.7
    assert conv.low > head.share
    assert conv.trials == head.trials == sum("conv_dropout" in trial.params for trial in trials)
    assert found["placement"].trials == 90


def test_a_rate_that_decides_nothing_has_a_small_share() -> None:
    trials = simulated(150, lambda batch, **_: 0.03 * batch)
    found = by_name(importances(trials, ACCURACY, resamples=40))
    for rate in ("conv_dropout", "head_dropout"):
        assert found[rate].share < 0.2
        assert found[rate].low < 0.05


def test_a_parameter_that_few_trials_have_is_not_measured() -> None:
    trials = simulated(40, lambda batch, **_: 0.03 * batch)
    few = [trial for trial in trials if "conv_dropout" in trial.params][: FEWEST - 1]
    found = importances(
        [*few, *(trial for trial in trials if "conv_dropout" not in trial.params)], ACCURACY, resamples=10
    )
    conv = by_name(found)["conv_dropout"]
    assert (conv.measured, conv.trials) == (False, FEWEST - 1)
    assert conv.gap == "7 complete trials have it, 8 are needed"
    assert math.isnan(conv.low)
    assert [each.measured for each in found] == [True, True, False, False]


def test_a_parameter_of_pruned_trials_alone_is_not_measured(study: Study) -> None:
    study.prune(study.ask().number, "slow")
    found = importances(study.trials(), ACCURACY)
    assert {(each.trials, each.measured) for each in found} == {(0, False)}
    assert {each.parameter for each in found} <= set(SETTINGS.space.dimensions)
    assert importances([], ACCURACY) == []


def test_equal_accuracies_measure_nothing(study: Study) -> None:
    for _ in range(FEWEST):
        study.complete(study.ask().number, scored(0.5, 0.3))
    assert not any(each.measured for each in importances(study.trials(), ACCURACY))


def test_a_parameter_that_does_not_differ_is_not_measured() -> None:
    found = by_name(importances(decided(20, conv=(0.2, 0.2)), ACCURACY, resamples=10))
    assert found["head_dropout"].share == 1
    assert found["conv_dropout"].gap == "the 20 trials that have it are alike in it, or equally good"


def decided(count: int, conv: tuple[float, float] = (0, 1)) -> list[FrozenTrial]:
    """Trials whose accuracy is their `head_dropout`; `conv_dropout` decides nothing."""

    def objective(trial: Any) -> float:
        return trial.suggest_float("head_dropout", 0, 1) + 0 * trial.suggest_float("conv_dropout", *conv)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(objective, count)
    return study.trials


def test_importances_come_with_the_interval_of_their_resamples() -> None:
    found = importances(decided(60), ACCURACY, resamples=40)
    assert [row.parameter for row in found] == ["head_dropout", "conv_dropout"]
    first, second = found
    assert first.low > second.high  # what decides all and what decides nothing are told apart
    assert 0 <= second.low <= second.high <= first.low <= first.high <= 1
    assert first.low < first.high
    assert importances(decided(60), ACCURACY, resamples=40) == found


def test_few_trials_leave_importances_open() -> None:
    first, second = importances(decided(8), ACCURACY, resamples=40)
    assert first.low < second.high  # the order is not settled
    assert not any(row.measured for row in importances(decided(FEWEST - 1), ACCURACY))


def test_what_decides_the_lowest_losses_is_found_as_what_decides_the_highest_accuracies() -> None:
    trials = simulated(60, lambda batch, conv_dropout=0.0, **_: 0.001 * batch - 0.3 * conv_dropout)
    expected = importances(trials, ACCURACY, resamples=10)
    for trial in trials:
        trial.values = [-trial.values[0]]
    assert importances(trials, LOSS, resamples=10) == expected
    assert importances(trials, ACCURACY, resamples=10) != expected
