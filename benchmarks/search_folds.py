"""Optuna's WilcoxonPruner on cross-validation: how much would it save if the folds were trained one after another?

The recorded seeds stand in for folds: their deviations from the cell's mean are what is left of a fold's accuracy once
the difficulty of its images is taken away, and the pruner compares fold by fold, so that it never sees that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import optuna
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState

from benchmarks.search_responses import response
from benchmarks.search_rules import Sweeps, mean_of
from benchmarks.search_sweeps import SEARCH, Tried

FOLDS: Final = (3, 4, 5, 10)


def fold_rows(sweeps: Sweeps, samplers: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Return the share of fold trainings saved, and how often the truly best trial was pruned, by number of folds."""
    rows = []
    for sampler in samplers:
        for folds in FOLDS:
            found = [replay(name, tried[:SEARCH], n, folds) for n, tried in sweeps[sampler][name].items()]
            saved, best = (mean_of([float(each) for each in column]) for column in zip(*found, strict=True))
            rows.append({"sampler": sampler, "folds": folds, "n": len(found), "saved": saved, "best pruned": best})
    return rows


def replay(name: str, tried: Tried, repetition: int, folds: int) -> tuple[float, bool]:
    """Return the share of trainings that the pruner saves in a sweep, and whether it prunes the truly best trial."""
    truth = response(name)
    luck = np.random.default_rng([repetition, 3]).normal(size=(len(tried), folds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize", pruner=WilcoxonPruner())
    trained, pruned = 0, []
    for (params, _), row in zip(tried, luck, strict=True):
        values = [truth.trained(params, float(draw)) for draw in row]
        done = _folds_until_pruned(study, values)
        trained += done
        pruned.append(done < folds)
    best = int(np.argmax([truth.truth(params) for params, _ in tried]))
    return 1 - trained / (folds * len(tried)), pruned[best]


def _folds_until_pruned(study: optuna.Study, values: Sequence[float]) -> int:
    """Report a trial's folds in turn and tell its mean; return how many were trained."""
    trial = study.ask()
    for fold, value in enumerate(values):
        trial.report(value, fold)
        if fold + 1 < len(values) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return fold + 1
    study.tell(trial, sum(values) / len(values))
    return len(values)
