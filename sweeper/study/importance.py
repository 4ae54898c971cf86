"""How much each parameter determines which trials are among the best of a study."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.metric import Metric
from sweeper.study.memory import Memory

RESAMPLES: Final = 100  # of the trials, for the intervals
FEWEST: Final = 8  # complete trials that must have a parameter
BEST: Final = 5  # trials at least that count as the best, as Optuna advises


class Importance(NamedTuple):
    """How much a parameter determines which trials are among the best, as a share over all parameters.

    It is measured among the trials that have the parameter: a rate of Dropout among those whose placement has Dropout
    there. So the shares of parameters that different trials have do not add up to 1.
    """

    parameter: str
    share: float  # in [0, 1]; NaN where it was not measured
    low: float  # 2.5 % of the resampled shares lie below
    high: float  # and 2.5 % above
    trials: int  # complete ones that have the parameter

    @property
    def measured(self) -> bool:
        """Return True if the trials give a share for the parameter. A share of 0 means that it has no effect."""
        return math.isfinite(self.share)

    @property
    def gap(self) -> str:
        """Return why it was not measured, in words."""
        if self.trials < FEWEST:
            return f"{self.trials} complete trials have it, {FEWEST} are needed"
        return f"the {self.trials} trials that have it are alike in it, or equally good"


def importances(trials: Sequence[FrozenTrial], metric: Metric, resamples: int = RESAMPLES) -> list[Importance]:
    """Return the importance of every parameter for the values of `metric`, the largest first, those that were not
    measured last.

    The share is that of conditional PED-ANOVA (Baba et al. 2026, arXiv 2601.20800). Over all trials that gives a
    rate 0 if no trial among the best has it, however much the rate decides within its placements; so each parameter is
    judged among the complete trials that have it. The interval holds 95 % of the shares in `resamples` bootstrap
    samples of these trials (percentile method, Efron 1979). The samples are the same each time.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    groups: dict[tuple[int, ...], list[str]] = {}  # parameters by the trials that have them
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        groups.setdefault(tuple(i for i, trial in enumerate(complete) if name in trial.params), []).append(name)
    found = [
        each
        for having, names in groups.items()
        for each in _among([complete[i] for i in having], names, metric, resamples)
    ]
    return sorted(found, key=lambda each: (-each.share if each.measured else math.inf, each.parameter))


def _among(
    trials: Sequence[FrozenTrial], names: Sequence[str], metric: Metric, resamples: int
) -> list[Importance]:  # fmt: skip
    """Return the importances of parameters that all of the complete `trials` have."""
    shares = _shares(trials, names, metric) if len(trials) >= FEWEST else {}
    draw = random.Random(0)  # noqa: S311 - resampling, no secret
    samples = [_shares(draw.choices(trials, k=len(trials)), names, metric) for _ in range(resamples) if shares]
    found = []
    for name in names:
        spread = sorted(sample[name] for sample in samples if name in sample) or [shares.get(name, math.nan)]
        edge = round(0.025 * (len(spread) - 1))
        found.append(Importance(name, shares.get(name, math.nan), spread[edge], spread[-1 - edge], len(trials)))
    return found


def _shares(trials: Sequence[FrozenTrial], names: Sequence[str], metric: Metric) -> dict[str, float]:
    """Return the shares of the parameters that differ among the trials; none if all values are equal."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # loads scikit-learn: a second

    study = optuna.create_study(storage=Memory(trials), direction=metric.direction)
    best = min(0.5, max(0.1, BEST / len(trials)))  # share of the trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that one or two trials have
        evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
        found = get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(found.values())
    differ = [name for name in names if len({trial.params[name] for trial in trials}) > 1]
    return {name: found[name] / total for name in differ if total}
