"""How much of the accuracy each parameter explains, among the trials of a study."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from typing import Any, Final, NamedTuple

import optuna
from optuna.trial import TrialState

from sweeper.study.trials import Shown

NAME: Final = "optuna.importance"
RESAMPLES: Final = 100  # of the trials, for the intervals


def _without_sklearn() -> Any:
    """A copy of `optuna.importance`, for this module alone, that was loaded without scikit-learn: that takes a second,
    and PED-ANOVA has no use for it. Who asks Optuna for its module gets the whole one.

    To be called while no other thread imports anything.
    """
    if {"sklearn", NAME} & sys.modules.keys():
        return optuna.importance
    public = vars(optuna)["importance"]
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(NAME)
    finally:
        for name in list(sys.modules):
            if name == "sklearn" or f"{name}.".startswith(f"{NAME}."):
                del sys.modules[name]
        optuna.importance = public


_EVALUATION: Final = _without_sklearn()  # here, and not at its first use, when the uploader may be importing MLflow


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _EVALUATION.get_param_importances(study, evaluator=_EVALUATION.PedAnovaImportanceEvaluator())
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
