"""Rules that end a trial early, replayed on finished sweeps with simulated learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.search_responses import EPOCHS, SEED_NOISE, curve, truth
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
    fast: list[bool]  # trials without Dropout
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


def margin(noises: float, start: int) -> Pruner:
    """Prune a trial that lies this many seed noises below the best complete one at this epoch."""

    def prune(epoch: int, placement: str, values: npt.NDArray[np.float64], known: Sequence[Known]) -> bool:
        del placement
        if epoch < start or len(known) < LEAST:
            return False
        return bool(values[-1] < max(each.curve[epoch - 1] for each in known) - noises * SEED_NOISE)

    return prune


def forecast(noises: float, start: int) -> Pruner:
    """Prune a trial that would end this many seed noises below the best, if it gained as much from here on as the
    luckiest complete trial of its placement, or of all placements while that has fewer than three."""

    def prune(epoch: int, placement: str, values: npt.NDArray[np.float64], known: Sequence[Known]) -> bool:
        if epoch < start or len(known) < LEAST:
            return False
        alike = [each for each in known if each.placement == placement]
        gains = [k.curve[-1] - k.curve[epoch - 1] for k in (alike if len(alike) >= LEAST_OF_PLACEMENT else known)]
        return bool(values[-1] + max(gains) < max(k.curve[-1] for k in known) - noises * SEED_NOISE)

    return prune


PRUNERS: Final[Mapping[str, Pruner]] = {
    "percentile 25 from epoch 3": percentile(25, 3),
    "percentile 25 from a third": percentile(25, EPOCHS // 3),
    "percentile 25 from half": percentile(25, EPOCHS // 2),
    "percentile 25 from three quarters": percentile(25, 3 * EPOCHS // 4),
    "percentile 25 within the placement, from epoch 3": percentile(25, 3, within=True),
    "percentile 25 within the placement, from half": percentile(25, EPOCHS // 2, within=True),
    "median from epoch 3": percentile(50, 3),
    "5 noises below the best, from a third": margin(5, EPOCHS // 3),
    "5 noises below the best, from half": margin(5, EPOCHS // 2),
    "forecast, from epoch 3": forecast(0, 3),
    "forecast, 3 noises lower, from epoch 3": forecast(3, 3),
    "forecast, 4 noises lower, from epoch 3": forecast(4, 3),
}


def replay(prune: Pruner, response: str, tried: Sequence[tuple[Mapping[str, Any], float]], repetition: int) -> Replayed:
    """Return what a pruner does to these trials, one after another."""
    noise = np.random.default_rng([repetition, 2]).normal(size=(len(tried), EPOCHS))
    known: list[Known] = []
    pruned, epochs = [], 0
    for (params, value), each in zip(tried, noise, strict=True):
        placement, values = str(params["placement"]), curve(params, value, each)
        end = next((e for e in range(1, EPOCHS) if prune(e, placement, values[:e], known)), EPOCHS)
        epochs += end
        pruned.append(end < EPOCHS)
        if not pruned[-1]:
            known.append(Known(placement, values))
    best = int(np.argmax([truth(response, params) for params, _ in tried]))
    fast = [not Placement(params["placement"]).has_head_dropout for params, _ in tried]
    return Replayed(pruned, fast, 1 - epochs / (EPOCHS * len(tried)), pruned[best])
