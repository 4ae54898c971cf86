"""Samplers, which propose the next trial, and pruners, which end one early.

A new sampler is built for each trial, from the study's seed and the trial's number. `gp`, `qmc` and `grid` propose
whole configurations: a placement, and with it the rates that it has. `tpe` models the rates apart from the placement,
which lost no more than a joint space did (docs/explanation/search.md).
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.config import Placement
from sweeper.study.space import Range, Space, cells
from sweeper.study.surrogate import Grid, propose

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
WINDOW: Final = 1_000  # finished trials that TPE sees; its time grows with them
GP_WINDOW: Final = 150  # and that the Gaussian process sees; its time grows with their third power
BEST: Final = 25  # trials that TPE takes for good ones, once there are 250 (optuna's default_gamma)
SPREAD: Final = 10  # first trials of `gp`, which are those of `qmc`
STARTUP: Final = 5  # complete trials before any is pruned
WARM_UP: Final = 3  # the first epoch after which a trial can be pruned
SAMPLER: Final = "gp"  # of a new study, by benchmarks/search_quality.py
PRUNER: Final = "none"
JOINT: Final = ("gp", "qmc")  # samplers that up to 0.1.0 were Optuna's, with each rate drawn at random


def make_pruner(name: str) -> BasePruner:
    """Return the pruner: percentile, median or none.

    After each epoch from `WARM_UP` on, once `STARTUP` trials are complete, it ends a trial whose best value so far is
    worse than the worst quarter (percentile) or half (median) of the complete trials' values at that epoch: below the
    lower quartile of accuracies, above the upper one of losses. Every epoch is tested again, and pruned trials
    do not count: percentile ends 26 to 64 % of the trials, as measured, not a quarter.
    """
    match name:
        case "percentile":
            return PercentilePruner(75.0, STARTUP, WARM_UP)
        case "median":
            return MedianPruner(STARTUP, WARM_UP)
        case _:
            return NopPruner()


def make_sampler(
    name: str, seed: int, number: int, space: Space | None = None, placement: Placement = Placement.NONE
) -> BaseSampler:
    """Return the sampler that proposes trial `number`: tpe, gp, qmc, grid or random.

    `gp` and `qmc` without a space are those of 0.1.0. `placement` is that of a space that does not vary it.
    """
    own = _own_seed(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of TPE's `group`, GP and QMC
        match name:
            case "tpe":
                return TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)
            case "gp" if space is None:
                return GPSampler(seed=own, warn_independent_sampling=False)
            case "qmc" if space is None:  # one sequence for the whole study: its seed must not change
                return QMCSampler(seed=seed, scramble=True, independent_sampler=RandomSampler(own),
                                  warn_independent_sampling=False)  # fmt: skip
            case "gp" if space is not None:
                return GaussianProcess(space, placement, seed, number)
            case "qmc" if space is not None:
                return QuasiRandom(space, placement, seed, number)
            case "grid" if space is not None:
                return Cells(space, placement, seed, number)
            case _:
                return RandomSampler(own)


def _own_seed(seed: int, number: int) -> int:
    """Return the seed of one trial's sampler."""
    return (seed * 1_000_003 + number) % 2**32


def drawn_at_random(sampler: str, space: Space, joint: bool = True) -> tuple[str, ...]:
    """Return the names of the dimensions that a sampler draws at random, ignoring earlier trials.

    `gp` and `qmc` of a study that 0.1.0 made (`joint` is False) draw the rates that not every placement has.
    """
    if sampler == "random":
        return tuple(space.describe())
    placement = space.dimensions.get("placement")
    if joint or sampler not in JOINT or placement is None:
        return ()
    names = [Placement(each) for each in placement.extremes()]
    return tuple(n for n in space.describe() if not all(each.uses(n) for each in names))


class Whole(BaseSampler):
    """A sampler that proposes a whole configuration. Values that an enqueued trial leaves open are random."""

    def __init__(self, space: Space, placement: Placement, seed: int, number: int) -> None:
        self._space, self._placement, self._seed, self._number = space, placement, seed, number
        self._grid = Grid(space, placement)
        self._independent = RandomSampler(_own_seed(seed, number))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all dimensions. Optuna does not ask for the rates that the placement lacks."""
        del study, trial
        return {name: _distribution(self._space, name) for name in self._grid.names}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value, for a rate that the proposal lacks: an enqueued trial has another placement."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._number])


class QuasiRandom(Whole):
    """Trial n is point n of a scrambled Sobol sequence over the whole space (Owen 1998)."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the point of this trial."""
        del study, trial, search_space
        from scipy.stats.qmc import Sobol  # takes half a second

        sequence = Sobol(len(self._grid.names), scramble=True, seed=self._seed)
        if self._number:
            sequence.fast_forward(self._number)
        return self._grid.decode(self._grid.spread(sequence.random(1))[0])


class GaussianProcess(QuasiRandom):
    """Proposals of a Gaussian process over the whole space, once there are trials to learn from."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposal; of the first trials the points of a Sobol sequence.

        A pruned trial counts with the last value that it reported, and as no worse than the worst complete trial. The
        model maximizes: a value to be minimized counts with its negative.
        """
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        trials = window(study.get_trials(deepcopy=False, states=FINISHED), study.direction, GP_WINDOW)
        complete = [sign * (t.value or 0.0) for t in trials if t.state == TrialState.COMPLETE]
        if len(complete) < SPREAD:
            return super().sample_relative(study, trial, search_space)
        worst = min(complete)
        values = [
            max(worst, sign * _last(t, sign * worst)) if t.state == TrialState.PRUNED else sign * (t.value or 0.0)
            for t in trials
        ]
        points = self._grid.encode([t.params for t in trials])
        return propose(self._grid, points, np.array(values), self._generator())


class Cells(Whole):
    """Every cell of a space of lists, in a random order; then again, each for another seed."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the first of the cells with the fewest trials. Failed trials do not count."""
        del search_space
        states = (*FINISHED, TrialState.RUNNING)
        tried = [t.params for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
        times = {frozenset(cell.items()): 0 for cell in cells(self._space, self._placement)}
        for params in tried:
            times[frozenset(params.items())] = times.get(frozenset(params.items()), 0) + 1
        order = list(cells(self._space, self._placement))
        np.random.default_rng(self._seed).shuffle(order)
        return min(order, key=lambda cell: times[frozenset(cell.items())])


def _distribution(space: Space, name: str) -> BaseDistribution:
    dimension = space.dimensions[name]
    if isinstance(dimension, Range):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension.values)


def _last(trial: FrozenTrial, otherwise: float) -> float:
    """Return the value that a pruned trial reported last."""
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else otherwise


def window(trials: Sequence[FrozenTrial], direction: StudyDirection, size: int = WINDOW) -> list[FrozenTrial]:
    """Return the trials that a sampler sees: those that are running and, of the finished ones, at most `size`.

    The best `BEST` complete trials are among them, ties by number; the others are the latest. TPE models the best
    25 trials, and all others as background, whose weights fall with their age. With thousands of trials, the older ones
    change little and make each proposal slower.
    """
    seen = [t for t in trials if t.state in (*FINISHED, TrialState.RUNNING)]
    finished = [t for t in seen if t.state != TrialState.RUNNING]
    if len(finished) <= size:
        return seen
    complete = (t for t in finished if t.state == TrialState.COMPLETE)
    first = heapq.nlargest if direction == StudyDirection.MAXIMIZE else heapq.nsmallest
    best = {t.number for t in first(BEST, complete, key=lambda t: t.value or 0.0)}
    others = [t.number for t in finished if t.number not in best]
    left = best.union(others[len(best) - size :])
    return [t for t in seen if t.state == TrialState.RUNNING or t.number in left]
