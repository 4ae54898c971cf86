"""Samplers, which propose the next trial, and pruners, which end one early."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Sequence
from typing import Final

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
WINDOW: Final = 1_000  # finished trials that TPE sees; its time grows with them
BEST: Final = 25  # trials that TPE takes for good ones, once there are 250 (optuna's default_gamma)
STARTUP: Final = 5  # complete trials before any is pruned
WARM_UP: Final = 3  # the first epoch after which a trial can be pruned


def make_pruner(name: str) -> BasePruner:
    """Return the pruner: percentile, median or none.

    After each epoch from `WARM_UP` on, once `STARTUP` trials are complete, it ends a trial whose best accuracy so far
    is below the lower quartile (percentile) or the median of the complete trials' accuracies at that epoch. Each epoch
    is tested anew, and pruned trials set no bar: percentile ends 26 to 64 % of the trials, as measured, not a quarter.
    """
    match name:
        case "percentile":
            return PercentilePruner(75.0, STARTUP, WARM_UP)
        case "median":
            return MedianPruner(STARTUP, WARM_UP)
        case _:
            return NopPruner()


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """Return the sampler that proposes trial `number`: tpe, gp, qmc or random."""
    own = (seed * 1_000_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of TPE's `group`, GP and QMC
        match name:
            case "tpe":
                return TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)
            case "gp":
                return GPSampler(seed=own, warn_independent_sampling=False)
            case "qmc":  # one sequence for the whole study: its seed must not change
                return QMCSampler(seed=seed, scramble=True, independent_sampler=RandomSampler(own),
                                  warn_independent_sampling=False)  # fmt: skip
            case _:
                return RandomSampler(own)


def window(trials: Sequence[FrozenTrial], size: int = WINDOW) -> list[FrozenTrial]:
    """Return the trials that TPE sees: those that are running and, of the finished ones, at most `size`.

    The best `BEST` complete trials are among them, ties by number; the others are the latest. TPE models the best
    25 trials, and all others as background, whose weights fall with their age. Of thousands, the older ones change
    little and make each proposal slower.
    """
    seen = [t for t in trials if t.state in (*FINISHED, TrialState.RUNNING)]
    finished = [t for t in seen if t.state != TrialState.RUNNING]
    if len(finished) <= size:
        return seen
    complete = (t for t in finished if t.state == TrialState.COMPLETE)
    best = {t.number for t in heapq.nlargest(BEST, complete, key=lambda t: t.value or 0.0)}
    others = [t.number for t in finished if t.number not in best]
    left = best.union(others[len(best) - size :])
    return [t for t in seen if t.state == TrialState.RUNNING or t.number in left]
