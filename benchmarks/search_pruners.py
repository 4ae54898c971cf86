"""Rules that end a trial early, replayed on finished sweeps with the learning curves of their response."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.search_responses import response
from benchmarks.search_rules import Sweeps, mean_of, of_fresh_means
from benchmarks.search_sweeps import SEARCH, Tried
from sweeper.core.config import Placement

LEAST: Final = 5  # complete trials before any is pruned
LEAST_OF_PLACEMENT: Final = 3


class Known(NamedTuple):
    """A complete trial."""

    placement: str
    curve: npt.NDArray[np.float64]


Pruner = Callable[[int, str, npt.NDArray[np.float64], Sequence[Known]], bool]  # epoch, placement, values so far


class Replayed(NamedTuple):
    """The effect of a pruner on a sweep."""

    pruned: list[bool]
    placements: list[str]
    saved: float  # share of all epochs
    best_pruned: bool  # whether it ended the truly best of the trials


def percentile(share: float, start: int, within: bool = False) -> Pruner:
    """Prune a trial whose best value so far is below this percentile of the complete ones at this epoch."""

    def prune(epoch: int, placement: str, values: npt.NDArray[np.float64], known: Sequence[Known]) -> bool:
        if within:
            known = [each for each in known if each.placement == placement]
        if epoch < start or len(known) < (LEAST_OF_PLACEMENT if within else LEAST):
            return False
        return bool(values.max() < np.percentile([each.curve[epoch - 1] for each in known], share))

    return prune


def margin(points: float, start: int) -> Pruner:
    """Prune a trial that lies this far below the best complete one at this epoch."""

    def prune(epoch: int, placement: str, values: npt.NDArray[np.float64], known: Sequence[Known]) -> bool:
        del placement
        if epoch < start or len(known) < LEAST:
            return False
        return bool(values[-1] < max(each.curve[epoch - 1] for each in known) - points)

    return prune


def forecast(points: float, start: int) -> Pruner:
    """Prune a trial that would end this far below the best, if it gained as much from here on as the luckiest complete
    trial of its placement, or of all placements while that has fewer than three."""

    def prune(epoch: int, placement: str, values: npt.NDArray[np.float64], known: Sequence[Known]) -> bool:
        if epoch < start or len(known) < LEAST:
            return False
        alike = [each for each in known if each.placement == placement]
        gains = [k.curve[-1] - k.curve[epoch - 1] for k in (alike if len(alike) >= LEAST_OF_PLACEMENT else known)]
        return bool(values[-1] + max(gains) < max(k.curve[-1] for k in known) - points)

    return prune


def pruners(epochs: int, noise: float) -> dict[str, Pruner]:
    """Return the rules for trainings of so many epochs, whose seeds have this standard deviation."""
    third, half, late = epochs // 3, epochs // 2, 3 * epochs // 4
    return {
        "percentile 25 from epoch 3": percentile(25, 3),
        "percentile 25 from a third": percentile(25, third),
        "percentile 25 from half": percentile(25, half),
        "percentile 25 from three quarters": percentile(25, late),
        "percentile 25 within the placement, from epoch 3": percentile(25, 3, within=True),
        "percentile 25 within the placement, from half": percentile(25, half, within=True),
        "median from epoch 3": percentile(50, 3),
        "5 noises below the best, from a third": margin(5 * noise, third),
        "5 noises below the best, from half": margin(5 * noise, half),
        "forecast, from epoch 3": forecast(0, 3),
        "forecast, 3 noises lower, from epoch 3": forecast(3 * noise, 3),
        "forecast, 4 noises lower, from epoch 3": forecast(4 * noise, 3),
    }


def replay(prune: Pruner, name: str, tried: Sequence[tuple[Mapping[str, Any], float]], repetition: int) -> Replayed:
    """Return what a pruner does to these trials of a response, one after another."""
    truth = response(name)
    draws = np.random.default_rng([repetition, 2]).normal(size=(len(tried), truth.epochs))
    known: list[Known] = []
    pruned, epochs = [], 0
    for (params, value), each in zip(tried, draws, strict=True):
        placement, values = str(params["placement"]), truth.curve(params, value, each)
        end = next((e for e in range(1, truth.epochs) if prune(e, placement, values[:e], known)), truth.epochs)
        epochs += end
        pruned.append(end < truth.epochs)
        if not pruned[-1]:
            known.append(Known(placement, values))
    best = int(np.argmax([truth.truth(params) for params, _ in tried]))
    placements = [str(params["placement"]) for params, _ in tried]
    return Replayed(pruned, placements, 1 - epochs / (truth.epochs * len(tried)), pruned[best])


def pruner_rows(sweeps: Sweeps, samplers: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each pruner on the sweeps of each sampler, over responses: epochs saved, the best pruned, regret added, the share
    pruned of all trials with Dropout, of those without, and of each placement."""
    return [
        {"sampler": sampler, "pruner": pruner}
        | _pruner_row(pruner, [(name, n, tried) for name in names for n, tried in sweeps[sampler][name].items()])
        for sampler in samplers
        for pruner in pruners(response(names[0]).epochs, 0.0)
    ]


def _pruner_row(pruner: str, sweeps: Sequence[tuple[str, int, Tried]]) -> dict[str, Any]:
    found, added = [], []
    for name, repetition, tried in sweeps:
        truth, search = response(name), tried[:SEARCH]
        found.append(replay(pruners(truth.epochs, truth.noise)[pruner], name, search, repetition))
        left = [each for each, pruned in zip(search, found[-1].pruned, strict=True) if not pruned]
        with_all, with_left = (of_fresh_means(name, trials, repetition).regret for trials in (search, left))
        added.append(with_left - with_all)
    pruned = [pair for one in found for pair in zip(one.placements, one.pruned, strict=True)]
    slow = {placement.value for placement in Placement if placement.has_head_dropout}
    return {"n": len(found), "saved": mean_of([one.saved for one in found]),
            "best pruned": mean_of([float(one.best_pruned) for one in found]), "regret": mean_of(added),
            "with Dropout": _share(pruned, slow), "without": _share(pruned, set(Placement) - slow),
            "placements": {placement.value: _share(pruned, {placement.value}) for placement in Placement}}  # fmt: skip


def _share(pruned: Sequence[tuple[str, bool]], placements: Collection[str]) -> float:
    """Return the share that was pruned of the trials of some placements; NaN if there were none."""
    chosen = [was for placement, was in pruned if placement in placements]
    return statistics.fmean(chosen) if chosen else math.nan
