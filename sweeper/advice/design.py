"""The design of the experiment: what is varied, the runs that vary it, and their outcomes.

A cell is a placement with its Dropout rates and learning rate. The learning rate is a nuisance parameter: each
placement gets the one that suits it best, as BatchNorm allows higher ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.placements import Placement
from sweeper.core.trial import FRESH, repeat

LEVELS: Final = ((0.05, 0.2), (0.1, 0.35), (0.2, 0.5))  # rates of convolutions and head, low, middle and high
LR_STEP: Final = 3.0  # the ratio of the learning rates that are tried first

Stage = Literal["probe", "pilot", "screening", "comparison"]


class Cell(NamedTuple):
    """A placement with its rates, 0 where it has none, and its learning rate as a multiple of the base's."""

    placement: Placement
    conv_dropout: float = 0.0
    head_dropout: float = 0.0
    lr: float = 1.0

    @classmethod
    def of(cls, placement: Placement, conv: float, head: float, lr: float = 1.0) -> Cell:
        """Return a cell without the rates that the placement does not have, and with rounded ones."""
        return cls(
            placement, round(conv, 3) if placement.has_conv_dropout else 0.0,
            round(head, 3) if placement.has_head_dropout else 0.0, float(f"{lr:.2g}"),
        )  # fmt: skip

    def configuration(self, base: RunConfig) -> RunConfig:
        """Return `base` with the placement, rates and learning rate of this cell."""
        return base.derive(
            placement=self.placement, conv_dropout=self.conv_dropout, head_dropout=self.head_dropout,
            lr=float(f"{base.lr * self.lr:.4g}"),
        )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """Return the cell as parameters of a study: the rates that it has, and the multiple of the learning rate."""
        rates = {"conv_dropout": self.conv_dropout, "head_dropout": self.head_dropout}
        has = {name: rate for name, rate in rates.items() if self.placement.uses(name)}
        return {"placement": self.placement.value, "lr": self.lr} | has


class Run(NamedTuple):
    """One run of the experiment."""

    stage: Stage
    cell: Cell
    seed: int = 0  # in its stage

    def configuration(self, base: RunConfig) -> RunConfig:
        """Return the configuration that it trains."""
        fresh = FRESH if self.stage == "comparison" else 0  # none of the screening is among them
        return repeat(self.cell.configuration(base), fresh + self.seed)


class Outcome(NamedTuple):
    """The outcome of a run. Accuracies are of the validation images, in [0, 1]."""

    accuracy: float | None  # at the last epoch; None if it was stopped early or diverged
    curve: Sequence[float] = ()  # after each epoch


Outcomes = Mapping[Run, Outcome]


class Plan(NamedTuple):
    """The decisions made before the next runs. The same plan and outcomes always give the same next runs.

    Attributes:
        placements: those that are compared.
        trainings: the maximum number of runs of screening and comparison together. If time is the limit, it is
            decided anew before each round and each look.
        epochs: of each run.
        pace: epochs per second that were measured last, of all workers together.
        pilot: seconds used until the end of the pilot.
        seed: of the proposals.
        rung: the epoch after which a screening run may be stopped; 0: never.
        margin: a run is stopped only if it is more than this below the best of its placement, at that epoch.
    """

    placements: tuple[Placement, ...]
    trainings: int
    epochs: int
    pace: float = 1.0
    pilot: float = 0.0
    seed: int = 0
    rung: int = 0
    margin: float = 1.0


def first_cells(placement: Placement) -> list[Cell]:
    """Return the first cells of a placement: all rate levels, and other learning rates at the middle level."""
    rates = LEVELS if placement.has_head_dropout else LEVELS[1:2]
    middle = LEVELS[1]
    cells = [Cell.of(placement, *each) for each in rates]
    return cells + [Cell.of(placement, *middle, lr) for lr in (1 / LR_STEP, LR_STEP)]


def fewest_trainings(placements: Sequence[Placement], seeds: int) -> int:
    """Return the minimum number of runs, with so many seeds per placement."""
    return sum(len(first_cells(placement)) for placement in placements) + seeds * len(placements)
