"""Samplers: what the next trial is asked with."""

from __future__ import annotations

import heapq
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeper.study.trials import FINISHED, Shown

WINDOW: Final = 1_000  # finished trials that TPE looks at; its time grows with them
BEST: Final = 25  # trials that TPE takes for good ones, once there are 250 (optuna's default_gamma)


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """The sampler that asks trial `number`: tpe, gp, qmc or random."""
    own = (seed * 1_000_003 + number) % 2**32
    match name:
        case "tpe":
            return WindowedTPE(seed=own, multivariate=True, group=True, constant_liar=True)
        case "gp":
            return GPSampler(seed=own, warn_independent_sampling=False)
        case "qmc":  # one sequence for the whole study: its seed must not change
            return QMCSampler(seed=seed, scramble=True, independent_sampler=RandomSampler(own),
                              warn_independent_sampling=False)  # fmt: skip
        case _:
            return RandomSampler(own)


class WindowedTPE(TPESampler):
    """TPE that looks at the last `WINDOW` finished trials, the best of all among them.

    TPE models the best 25 trials, and all others, whose weights fall with their age, as background. Of
    thousands, the older ones change little, and make each ask slower. It asks one trial: the window stays.
    """

    _window: optuna.Study | None = None

    def _of(self, study: optuna.Study) -> optuna.Study:
        self._window = self._window or window(study)
        return self._window

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE does it, in the window."""
        return super().infer_relative_search_space(self._of(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does it, in the window."""
        return super().sample_relative(self._of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE does it, in the window."""
        return super().sample_independent(self._of(study), trial, param_name, param_distribution)


def window(study: optuna.Study) -> optuna.Study:
    """The study, or, where more than `WINDOW` trials have finished, the study without most of the older ones.

    Left are the best `BEST` complete trials, ties by number, the latest others, and those that are running.
    """
    trials = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
    finished = [t for t in trials if t.state != TrialState.RUNNING]
    if len(finished) <= WINDOW:
        return study
    complete = (t for t in finished if t.state == TrialState.COMPLETE)
    best = {t.number for t in heapq.nlargest(BEST, complete, key=lambda t: t.value or 0.0)}
    others = [t.number for t in finished if t.number not in best]
    left = best.union(others[len(best) - WINDOW :])
    return Shown(study, [t for t in trials if t.state == TrialState.RUNNING or t.number in left])
