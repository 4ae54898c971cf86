"""How much of the accuracy each parameter explains, among the trials of a study."""

from __future__ import annotations

import random
import warnings
from typing import Final, NamedTuple

import optuna
from optuna.trial import TrialState

from sweeper.study.trials import Shown

RESAMPLES: Final = 100  # of the trials, for the intervals


class Importance(NamedTuple):
    """The share of the accuracy's variance that a parameter explains, with its bootstrap interval."""

    parameter: str
    share: float
    low: float  # 2.5 % of the resampled shares lie below
    high: float  # and 2.5 % above


def importances(study: optuna.Study) -> list[tuple[str, float]]:
    """Share of the accuracy's variance that each parameter explains (PED-ANOVA, Watanabe et al. 2023,
    arXiv 2304.10255), largest first; empty while there are too few complete trials to say."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 4:
        return []
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # loads scikit-learn: a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (RuntimeError, ValueError):  # every trial has the same value
            return []
    return sorted(found.items(), key=lambda item: -item[1])


def importance_intervals(study: optuna.Study, resamples: int = RESAMPLES) -> list[Importance]:
    """The importances, largest first, each with the interval that holds 95 % of those of `resamples` bootstrap
    samples of the complete trials (percentile method, Efron 1979); the samples are the same each time."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    draw = random.Random(0)  # noqa: S311 - resampling, no secret
    samples = [dict(importances(Shown(study, draw.choices(trials, k=len(trials))))) for _ in range(resamples) if trials]
    found = []
    for parameter, share in importances(study):
        shares = sorted(sample.get(parameter, 0.0) for sample in samples if sample)
        edge = round(0.025 * (len(shares) - 1))
        low, high = (shares[edge], shares[-1 - edge]) if shares else (share, share)
        found.append(Importance(parameter, share, low, high))
    return found
