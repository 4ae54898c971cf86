"""Outcomes of runs that nobody trained, for tests of the design."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sweeper.advice.design import Cell, Outcome, Plan, Run
from sweeper.advice.rounds import State, state
from sweeper.core.placements import PLAIN

Truth = Callable[[Cell], float]


def peaked(cell: Cell) -> float:
    """An accuracy that is best at a rate of 0.1 and a learning rate of twice the base's, with BatchNorm."""
    value = 0.9 + 0.02 * cell.placement.has_batch_norm - 0.01 * np.log2(cell.lr / 2) ** 2
    return float(value - 2 * (cell.conv_dropout - 0.1) ** 2 * cell.placement.has_conv_dropout)


def outcome(run: Run, truth: Truth = peaked, noise: float = 0.0, luck: int = 0) -> Outcome:
    """Return the outcome of a run, always the same for the same luck."""
    draw = np.random.default_rng([luck, zlib.crc32(repr(run).encode())])
    value = truth(run.cell) + noise * draw.normal()
    return Outcome(value, (value - 0.1, value))


def plan(trainings: int = 100, seed: int = 0) -> Plan:
    """Return a plan of all placements of a plain network."""
    return Plan(PLAIN, trainings, epochs=2, seed=seed)


def finish(wanted: Plan, train: Callable[[Run], Outcome]) -> tuple[State, dict[Run, Outcome]]:
    """Train until nothing is missing."""
    rounds: Sequence[Sequence[Run]] = []
    outcomes: dict[Run, Outcome] = {}
    cells = None
    while (found := state(wanted, rounds, outcomes, cells)).missing:
        rounds, cells = found.rounds, found.cells or None
        outcomes |= {run: train(run) for run in found.missing}
    return found, outcomes


def of_stage(outcomes: Mapping[Run, Outcome], stage: str) -> list[Run]:
    """Return the runs of one stage."""
    return [run for run in outcomes if run.stage == stage]
