"""Accuracies over the default search space, and learning curves: the truth of `search_quality` and `search_real`.

A response says how good a configuration truly is, and what its trainings give. Seven are simulated, here; the others
replay real trainings (search_recorded.py). Accuracies are in points (hundredths). `l` is log2(batch size) - 5. A rate
counts only where the placement has it. The first four are of other people's making; narrow, ridge and needle have an
optimum that a search finds only if it sees placement and rates together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.search_recorded import recorded
from sweeper.core.config import PLAIN, Placement
from sweeper.study.space import Choice, Range, default_space

SEED_NOISE: Final = 0.25  # points, standard deviation between the seeds of a configuration
EPOCHS: Final = 15
EPOCH_NOISE: Final = 0.15  # points, of each epoch's value beside that of its seed
NAMES: Final = tuple(placement.value for placement in PLAIN)
Surface = Callable[[str, float, float, float], float]  # of placement, conv rate, head rate and l
Array = npt.NDArray[np.float64]


class Response(Protocol):
    """The truth that a search is judged by, and the trainings that it sees."""

    @property
    def epochs(self) -> int:
        """Epochs of a training."""

    @property
    def noise(self) -> float:
        """Standard deviation between the seeds of a configuration, points."""

    @property
    def optimum(self) -> float:
        """The highest true accuracy of the default space."""

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return the accuracy of a configuration without noise."""

    def trained(self, params: Mapping[str, Any], draw: float) -> float:
        """Return the accuracy of a training, given its draw from a standard normal distribution."""

    def curve(self, params: Mapping[str, Any], last: float, draws: Array) -> Array:
        """Return the accuracy after each epoch, (epochs,), that ends at `last`; one draw an epoch, as above."""


def _by_placement(*values: Any) -> dict[str, Any]:
    return dict(
        zip(("none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic"), values, strict=True)
    )


ADDITIVE: Final = _by_placement(0.0, 0.9, 0.8, 1.3, 0.7, 1.6, 1.0)
FLAT: Final = _by_placement(-0.8, 1.0, 0.9, 1.1, 0.95, 1.15, 1.05)
DISCRETE: Final = _by_placement(0.4, 1.8, 0.5, 1.6, 1.3, 1.75, 1.4)
NEEDLE: Final = _by_placement(0.0, 0.7, 0.5, 1.0, 0.4, 0.9, 0.6)
INTERACTION: Final = _by_placement(  # base, best conv rate, curvature, best head rate, curvature, best l
    (0, 0, 0, 0, 0, 2), (0.7, 0, 0, 0, 0, 1), (1.4, 0.22, 20, 0.45, 6, 2), (2.0, 0.06, 18, 0.35, 6, 1),
    (1.6, 0.03, 20, 0.20, 6, 3), (1.6, 0, 0, 0.50, 8, 1), (1.5, 0.05, 16, 0.10, 7, 3),
)  # fmt: skip
NARROW: Final = _by_placement(
    (0, 0, 0, 0, 0, 2), (0.9, 0, 0, 0, 0, 1), (1.2, 0.25, 70, 0.45, 20, 2), (2.2, 0.13, 90, 0.40, 25, 1),
    (1.6, 0.06, 80, 0.18, 25, 3), (1.3, 0, 0, 0.50, 25, 1), (1.9, 0.20, 90, 0.15, 25, 3),
)  # fmt: skip
RIDGE: Final = _by_placement(  # base, best sum of conv rate and half the head rate, best l
    (0.2, 0, 0), (1.0, 0, 1), (1.3, 0.35, 2), (2.0, 0.22, 1), (1.7, 0.12, 2), (1.5, 0.20, 1), (1.8, 0.28, 3)
)


def additive(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """The same best rates and batch size for every placement."""
    value = ADDITIVE[placement] - 0.10 * (l - 1) ** 2
    value -= 14 * (conv - 0.10) ** 2 if _uses(placement, "conv_dropout") else 0.0
    return value - (5 * (head - 0.30) ** 2 if _uses(placement, "head_dropout") else 0.0)


def interaction(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """Best rates and batch size of each placement's own."""
    base, best_conv, steep_conv, best_head, steep_head, best_l = INTERACTION[placement]
    rates = steep_conv * (conv - best_conv) ** 2 + steep_head * (head - best_head) ** 2
    return float(base - rates - 0.12 * (l - best_l) ** 2)


def flat(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """A plateau that ends where the rates are high."""
    value = FLAT[placement] - 0.04 * (l - 1.5) ** 2
    value -= 45 * max(0.0, conv - 0.20) ** 2 if _uses(placement, "conv_dropout") else 0.0
    return value - (15 * max(0.0, head - 0.40) ** 2 if _uses(placement, "head_dropout") else 0.0)


def discrete(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """Best without Dropout and with the smallest batch."""
    return float(DISCRETE[placement] - 5 * conv - 1.0 * head - 0.25 * l)


def narrow(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """Steep wells of each placement's own, which level out: 0.1 % of the space lies within 0.1 points of the best."""
    base, best_conv, steep_conv, best_head, steep_head, best_l = NARROW[placement]
    depth = steep_conv * (conv - best_conv) ** 2 + steep_head * (head - best_head) ** 2 + 0.15 * (l - best_l) ** 2
    return float(base - 2.5 * (1 - math.exp(-depth / 2.5)))


def ridge(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """The rates make up for each other: their sum counts, and each placement wants another one."""
    base, total, best_l = RIDGE[placement]
    value = base - 0.10 * (l - best_l) ** 2
    if _uses(placement, "conv_dropout"):
        return float(value - 60 * (conv + 0.5 * head - total) ** 2 - 12 * (conv - 0.5 * head) ** 2)
    return float(value - (60 * (0.5 * head - total) ** 2 if _uses(placement, "head_dropout") else 0.0))


def needle(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """A narrow peak where nothing else points: in a placement that is poor elsewhere."""
    value = NEEDLE[placement] - 0.08 * (l - 1) ** 2
    value -= 8 * (conv - 0.08) ** 2 if _uses(placement, "conv_dropout") else 0.0
    value -= 3 * (head - 0.25) ** 2 if _uses(placement, "head_dropout") else 0.0
    away = ((conv - 0.22) / 0.10) ** 2 + ((head - 0.40) / 0.15) ** 2 + ((l - 3) / 1.5) ** 2
    return value + (1.6 * math.exp(-away) if placement == "ic" else 0.0)


def _uses(placement: str, rate: str) -> bool:
    return Placement(placement).uses(rate)


GIVEN: Final[Mapping[str, Response]] = {f.__name__: f for f in (additive, interaction, flat, discrete)}
OWN: Final[Mapping[str, Response]] = {f.__name__: f for f in (narrow, ridge, needle)}
RESPONSES: Final[Mapping[str, Surface]] = {**GIVEN, **OWN}


@cache
def response(name: str) -> Response:
    """Return a response: one of `RESPONSES`, or one of recorded trainings."""
    return Simulated(RESPONSES[name]) if name in RESPONSES else recorded(name)


class Simulated:
    """A surface with normal noise between seeds, and curves of a simple form."""

    epochs, noise = EPOCHS, SEED_NOISE

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return the accuracy of a configuration without noise."""
        return self._surface(params["placement"], *_rates(params), math.log2(params["batch_size"]) - 5)

    def trained(self, params: Mapping[str, Any], draw: float) -> float:
        """Return the accuracy of a training."""
        return self.truth(params) + SEED_NOISE * draw

    @cached_property
    def optimum(self) -> float:
        """The highest accuracy of the default space, on a lattice of 96 x 111 rates."""
        space = default_space().dimensions
        conv, head, sizes = space["conv_dropout"], space["head_dropout"], space["batch_size"]
        assert isinstance(conv, Range)
        assert isinstance(head, Range)
        assert isinstance(sizes, Choice)
        return max(
            self._surface(placement, c, h, math.log2(float(size)) - 5)
            for placement in NAMES
            for c in (np.linspace(conv.low, conv.high, 96) if _uses(placement, "conv_dropout") else [0.0])
            for h in (np.linspace(head.low, head.high, 111) if _uses(placement, "head_dropout") else [0.0])
            for size in sizes.values
        )

    def curve(self, params: Mapping[str, Any], last: float, draws: Array) -> Array:
        """Return the accuracy after each epoch, (epochs,); it ends at `last`.

        The gap to the end falls exponentially over 3 epochs, from 5 points without Dropout; with Dropout from 9 and
        more, by its rates, so that it starts slower: after 3 epochs a small network on 2,000 images lacked 2.5 points
        of its end with BatchNorm, 5.2 with Dropout beside it and 5.4 with Dropout alone.
        """
        rates = _rates(params)
        start = 5.0 + (4.0 + 8 * rates[0] + 4 * rates[1] if _uses(params["placement"], "head_dropout") else 0.0)
        gap = start * (np.exp(-np.arange(EPOCHS) / 3) - math.exp(-(EPOCHS - 1) / 3))
        found = last - gap + EPOCH_NOISE * draws
        found[-1] = last
        return np.asarray(found)


def _rates(params: Mapping[str, Any]) -> tuple[float, float]:
    return float(params.get("conv_dropout", 0.0)), float(params.get("head_dropout", 0.0))
