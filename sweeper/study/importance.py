"""How much of the accuracy each parameter explains, among the trials of a study."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.study.memory import Memory

RESAMPLES: Final = 100  # of the trials, for the intervals


class Importance(NamedTuple):
    """The share of the accuracy's variance that a parameter explains, with its bootstrap interval."""

    parameter: str
    share: float
    low: float  # 2.5 % of the resampled shares lie below
    high: float  # and 2.5 % above


def importances(trials: Sequence[FrozenTrial]) -> list[tuple[str, float]]:
    """Return the share of the accuracy's variance that each parameter explains, largest first (PED-ANOVA, Watanabe
    et al. 2023, arXiv 2304.10255). It is empty while too few trials are complete."""
    if sum(trial.state == TrialState.COMPLETE for trial in trials) < 4:
        return []
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # loads scikit-learn: a second

    study = optuna.create_study(storage=Memory(trials), direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (RuntimeError, ValueError):  # every trial has the same value
            return []
    return sorted(found.items(), key=lambda item: -item[1])


def importance_intervals(trials: Sequence[FrozenTrial], resamples: int = RESAMPLES) -> list[Importance]:
    """Return the importances, largest first, each with the interval that holds 95 % of those of `resamples` bootstrap
    samples of the complete trials (percentile method, Efron 1979). The samples are the same each time."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    draw = random.Random(0)  # noqa: S311 - resampling, no secret
    samples = [dict(importances(draw.choices(complete, k=len(complete)))) for _ in range(resamples) if complete]
    found = []
    for parameter, share in importances(complete):
        shares = sorted(sample.get(parameter, 0.0) for sample in samples if sample)
        edge = round(0.025 * (len(shares) - 1))
        low, high = (shares[edge], shares[-1 - edge]) if shares else (share, share)
        found.append(Importance(parameter, share, low, high))
    return found
