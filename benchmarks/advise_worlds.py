"""Simulated networks with known truths: the ground truth of `advise_quality`.

A world has a surface, the true accuracy of each cell in points; the noise of each placement, the standard deviation
between its seeds; and how fast each placement learns. The surfaces of `search_quality` serve, with the learning rate in
the place of the batch size: `l` is 2 at the base's learning rate, and goes up by 1 where that is tripled.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from benchmarks.search_responses import additive, discrete, flat, interaction, narrow, ridge
from sweeper.advice.design import Cell, Outcome, Plan, Run
from sweeper.advice.screening import CONV, HEAD, LR, is_hopeless
from sweeper.core.placements import PLAIN, Placement

EPOCHS: Final = 15
NOISE: Final = 0.25  # points
WAGGLE: Final = 0.15  # points, of the value after an epoch before the last
UNEQUAL: Final = dict(zip((placement.value for placement in PLAIN), (0.1, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5), strict=True))
SLOW: Final = {"dropout": 5.0, "bn-dropout": 4.0, "dropout-bn": 5.0, "ic": 3.0}  # epochs; all others 1.5


def equal(placement: str, conv: float, head: float, l: float) -> float:  # noqa: E741
    """All placements are equally good, with mild rates; high ones cost."""
    del placement
    rates = 8 * max(0.0, conv - 0.12) ** 2 + 4 * max(0.0, head - 0.4) ** 2
    return 1.0 - 0.1 * (l - 2) ** 2 - rates


@dataclass(frozen=True)
class World:
    """A network that was never trained, but of which everything is known."""

    surface: Callable[[str, float, float, float], float]
    noise: Mapping[str, float] = field(default_factory=dict)  # points, of the placements that differ from NOISE
    slow: Mapping[str, float] = field(default_factory=dict)  # epochs in which half the way is made

    def truth(self, cell: Cell) -> float:
        """Return the true accuracy of a cell, in points."""
        return self.surface(cell.placement.value, cell.conv_dropout, cell.head_dropout, 2 + math.log(cell.lr, 3))

    @cached_property
    def optima(self) -> dict[Placement, float]:
        """The true accuracy of each placement at its best rates and learning rate."""
        return {placement: self._optimum(placement) for placement in PLAIN}

    @property
    def optimum(self) -> float:
        """The highest of all."""
        return max(self.optima.values())

    def train(self, plan: Plan, run: Run, repetition: int, earlier: Mapping[Run, Outcome]) -> Outcome:
        """Return the outcome of a run. Equal runs of equal repetitions have equal outcomes."""
        draw = np.random.default_rng([repetition, zlib.crc32(repr(run).encode())])
        placement = run.cell.placement.value
        last = self.truth(run.cell) + self.noise.get(placement, NOISE) * draw.normal()
        left = 20 * 0.5 ** (np.arange(1, EPOCHS + 1) / self.slow.get(placement, 1.5))
        curve = last - (left - left[-1]) + WAGGLE * draw.normal(size=EPOCHS)
        curve[-1] = last
        curve /= 100
        if plan.rung and is_hopeless(plan, run, plan.rung, curve[plan.rung - 1], earlier):
            return Outcome(None, curve[: plan.rung])
        return Outcome(float(curve[-1]), curve)

    def _optimum(self, placement: Placement) -> float:
        grids = [np.linspace(0, 1, 25) if placement.uses(name) else [0.0] for name in ("conv_dropout", "head_dropout")]
        rates = [
            (CONV.low + c * (CONV.high - CONV.low), HEAD.low + h * (HEAD.high - HEAD.low))
            for c in grids[0]
            for h in grids[1]
        ]
        factors = LR.low * (LR.high / LR.low) ** np.linspace(0, 1, 17)
        return max(self.truth(Cell.of(placement, c, h, lr)) for c, h in rates for lr in factors)


WORLDS: Final = {
    "additive": World(additive),
    "interaction": World(interaction),
    "flat": World(flat),
    "discrete": World(discrete),
    "narrow": World(narrow),
    "ridge": World(ridge),
    "all equal": World(equal),
    "slow starters win": World(interaction, slow=SLOW),
    "unequal noise": World(equal, noise=UNEQUAL),
}
