"""Screening: find the rates and the learning rate of each placement.

Placements are not compared here, so that slow starters are not penalized. Each gets its low, middle and high rates, two
more learning rates, and then one proposal per round. A Gaussian process over all placements, that of
`sweeper optimize`, learns what they share, such as the better learning rate; the proposal of a placement is the best of
it in one random draw from the posterior. In the end each placement takes its cell with the highest posterior mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sweeper.advice.design import Cell, Outcomes, Plan, Run, first_cells
from sweeper.core.placements import Placement
from sweeper.study.space import Choice, Range, Space
from sweeper.study.surrogate import Grid, Points, Surrogate

Array = npt.NDArray[np.float64]
SHARE: Final = 0.6  # of all trainings
CONV, HEAD, LR = Range(0.02, 0.4), Range(0.05, 0.6), Range(1 / 9, 9.0, log=True)
ANYWHERE, NEAR, CENTRES, HOPEFUL = 200, 64, 3, 100  # candidates; the centres are the best of them so far


class Screening:
    """The runs of the screening, one round at a time, based on the outcomes of earlier rounds."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        names = tuple(placement.value for placement in plan.placements)
        space: dict[str, Choice | Range] = {
            "placement": Choice(names),
            "conv_dropout": CONV,
            "head_dropout": HEAD,
            "lr": LR,
        }
        self._grid = Grid(Space(space), plan.placements[0])

    def round(self, known: Outcomes) -> list[Run]:
        """Return the runs of the next round; empty once the screening has used its share of the runs.

        Args:
            known: the outcomes of all earlier rounds.
        """
        if not known:
            return [Run("screening", cell) for placement in self._plan.placements for cell in first_cells(placement)]
        if len(known) + len(self._plan.placements) > SHARE * self._plan.trainings:
            return []
        draw = np.random.default_rng([self._plan.seed, len(known)])
        model = self._model(known)
        tried = [run.cell for run in known]
        cells = [self._propose(model, placement, known, draw) for placement in self._plan.placements]
        return [Run("screening", cell, tried.count(cell)) for cell in cells]

    def best(self, known: Outcomes) -> dict[Placement, Cell | None]:
        """Return the cell of each placement with the highest posterior mean; None if each was stopped or diverged.

        The placements are in the order of these means, the best first.
        """
        draw = np.random.default_rng([self._plan.seed, len(known), 1])
        model = self._model(known)
        found: dict[Placement, Cell | None] = {}
        means: dict[Placement, float] = {}
        for placement in self._plan.placements:
            cells, mean, _ = self._candidates(model, placement, known, draw)
            learnt = any(run.cell.placement == placement and each.accuracy for run, each in known.items())
            found[placement] = cells[int(np.argmax(mean))] if learnt else None
            means[placement] = float(mean.max()) if learnt else -np.inf
        return {each: found[each] for each in sorted(found, key=lambda each: -means[each])}

    def _points(self, cells: Sequence[Cell]) -> Points:
        return self._grid.encode([cell.params() for cell in cells])

    def _model(self, known: Outcomes) -> Surrogate:
        complete = [each.accuracy for each in known.values() if each.accuracy is not None]
        worst = min(complete, default=0.0)
        values = [worst if each.accuracy is None else each.accuracy for each in known.values()]
        return Surrogate(self._grid.words, self._points([run.cell for run in known]), np.array(values))

    def _propose(self, model: Surrogate, placement: Placement, known: Outcomes, draw: np.random.Generator) -> Cell:
        cells, mean, deviation = self._candidates(model, placement, known, draw)
        hopeful: list[Cell] = [cells[i] for i in np.argsort(-(mean + 2 * deviation), kind="stable")[:HOPEFUL]]
        drawn = model.draw(self._points(hopeful), draw)
        return hopeful[int(np.argmax(drawn))]

    def _candidates(
        self, model: Surrogate, placement: Placement, known: Outcomes, draw: np.random.Generator
    ) -> tuple[list[Cell], Array, Array]:
        """Cells anywhere, near the best of these, and those that were tried; posterior mean and deviation of each."""
        cells = [run.cell for run in known if run.cell.placement == placement]
        cells += [_cell(placement, unit) for unit in draw.random((ANYWHERE, 3))]
        mean, _ = model.predict(self._points(cells))
        for best in np.argsort(-mean, kind="stable")[:CENTRES]:
            width = np.exp(draw.uniform(np.log(0.02), np.log(0.3), (NEAR, 1)))
            near = np.clip(_unit(cells[best]) + width * draw.normal(size=(NEAR, 3)), 0, 1)
            cells += [_cell(placement, unit) for unit in near]
        cells = list(dict.fromkeys(cells))
        return cells, *model.predict(self._points(cells))


def is_hopeless(plan: Plan, run: Run, epoch: int, accuracy: float, outcomes: Outcomes) -> bool:
    """Return True if a screening run should be stopped after this epoch.

    It is stopped only at the rung, and only if it is more than the margin below the best of its placement there.
    """
    if run.stage != "screening" or epoch != plan.rung:
        return False
    others = [
        found.curve[epoch - 1]
        for other, found in outcomes.items()
        if other.stage == run.stage and other.cell.placement == run.cell.placement and len(found.curve) >= epoch
    ]
    return bool(others) and accuracy < max(others) - plan.margin


def _cell(placement: Placement, unit: Sequence[float]) -> Cell:
    """The cell at a place within the ranges."""
    conv, head = (within.low + x * (within.high - within.low) for x, within in zip(unit[:2], (CONV, HEAD), strict=True))
    return Cell.of(placement, conv, head, LR.low * (LR.high / LR.low) ** unit[2])


def _unit(cell: Cell) -> Array:
    """The place of a cell within the ranges, each from 0 to 1."""
    conv = (cell.conv_dropout - CONV.low) / (CONV.high - CONV.low)
    head = (cell.head_dropout - HEAD.low) / (HEAD.high - HEAD.low)
    return np.array([conv, head, np.log(cell.lr / LR.low) / np.log(LR.high / LR.low)])
