"""The pilot: a few runs that measure the pace, and determine how long the others train.

If time is limited, a probe of one epoch each comes first, so that the pilot does not use it all up.

The pilot trains the plain network, the slowest learner (Dropout at high rates without BatchNorm, if supported), and one
with both layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sweeper.advice.design import LEVELS, Cell, Plan, Run, Stage, fewest_trainings
from sweeper.core.errors import UsageError
from sweeper.core.intervals import difference_margin
from sweeper.core.placements import Placement
from sweeper.core.text import counted

MOST_EPOCHS: Final = 30  # of the pilot, where nobody says how many
FEWEST_EPOCHS: Final = 5
RESERVE: Final = 0.9  # share of the time that is planned for; networks differ in pace
STEADY: Final = 0.01  # of accuracy: two curves keep their distance if it changes by less
SMOOTH: Final = 3  # epochs of a moving mean
SEEDS: Final = 3  # of each placement, before anything can be said
PILOT_SHARE: Final = 1 / 6  # of the budget
LATEST: Final = 0.8  # share of the epochs after which stopping a run saves too little


class Curve(NamedTuple):
    """One run of the pilot: values after each epoch."""

    accuracy: Sequence[float]
    loss: Sequence[float]  # of the validation images, nats


class Measured(NamedTuple):
    """The results of the pilot.

    Attributes:
        curves: of its runs.
        seconds: during which at least one of them was training.
        images: number of validation images.
        used: seconds of the budget that are used.
    """

    curves: Sequence[Curve]
    seconds: float
    images: int
    used: float

    @property
    def pace(self) -> float:
        """Epochs per second, of all workers together."""
        return sum(len(curve.loss) for curve in self.curves) / max(self.seconds, 1e-3)


class Limits(NamedTuple):
    """The user's limits: a budget in seconds and, optionally, a number of runs or epochs."""

    budget: float
    trainings: int | None = None
    epochs: int | None = None


def pilot_runs(placements: Sequence[Placement], stage: Stage = "pilot") -> list[Run]:
    """Return the runs of the pilot: plain, slow, and with both layers; fewer if the placements lack one of these."""
    _, middle, high = LEVELS
    plain = min(placements, key=lambda each: (each.has_batch_norm, each.has_head_dropout))
    slow = min(placements, key=lambda each: (not each.has_head_dropout, each.has_batch_norm, not each.has_conv_dropout))
    both = max(placements, key=lambda each: each.has_batch_norm + each.has_head_dropout)
    cells = (Cell.of(plain, *middle), Cell.of(slow, *high), Cell.of(both, *middle))
    return [Run(stage, cell) for cell in dict.fromkeys(cells)]


def pilot_epochs(budget: float, seconds: float) -> int:
    """Return the epochs of the pilot, so that it takes a sixth of the budget: at least 5, at most 30.

    The probe took so many seconds for one epoch of each run.
    """
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.floor(PILOT_SHARE * budget / max(seconds, 1e-3))))


def enough_epochs(plain: Curve, slow: Curve) -> int:
    """Return how many epochs show what the layers do: twice as many as the plain network needs to overfit.

    It overfits after its lowest validation loss. The slow network must have learnt too: its accuracy is within a point
    of its best. At most the epochs of the pilot, at least 5.
    """
    most = len(plain.loss)
    lowest = 1 + int(np.argmin(_smooth(plain.loss)))
    accuracy = _smooth(slow.accuracy)
    learnt = 1 + int(np.argmax(accuracy >= accuracy.max() - STEADY))
    return min(most, max(FEWEST_EPOCHS, 2 * lowest, learnt))


def overfits(plain: Curve) -> bool:
    """Return True if the validation loss of the plain network rises before the end of the pilot."""
    return int(np.argmin(_smooth(plain.loss))) < len(plain.loss) - SMOOTH


def fair_rung(fast: Curve, slow: Curve, epochs: int, images: int) -> tuple[int, float]:
    """Return the epoch after which a run may be stopped, and the margin below the best that it needs.

    The rung is in the second half. From there on, the gap between a slow and a fast network changes by at most a point:
    stopping earlier would penalize slow starters. The margin is at least two points, twice the remaining change of the
    gap, and twice the 95 % interval of a difference of two accuracies on so many images. (0, 1.0) if there is no such
    epoch before the last fifth: no run is stopped.
    """
    luck = 2 * difference_margin(max(fast.accuracy[:epochs]), images)
    gap = np.asarray(slow.accuracy[:epochs]) - np.asarray(fast.accuracy[:epochs])
    change = np.abs(gap - gap[-1])
    for rung in range(math.ceil(epochs / 2), math.floor(LATEST * epochs) + 1):
        if (left := float(change[rung - 1 :].max())) <= STEADY:
            return rung, max(2 * STEADY, 2 * left, luck)
    return 0, 1.0


def affordable(seconds: float, pace: float, epochs: int) -> int:
    """Return how many runs of so many epochs fit into the time, reserving one to retrain the recommendation.

    `pace` is in epochs per second, of all workers together.
    """
    return max(0, math.floor(RESERVE * seconds * pace / epochs) - 1)


def make_plan(
    placements: Sequence[Placement], limits: Limits, measured: Measured, seed: int
) -> tuple[Plan, list[str]]:  # fmt: skip
    """Return the plan that follows from the pilot, and remarks on it.

    Raises:
        UsageError: there is too little time.
    """
    plain, slow = measured.curves[0], measured.curves[1 if len(measured.curves) > 1 else 0]
    epochs = limits.epochs or enough_epochs(plain, slow)
    fewest, left = fewest_trainings(placements, SEEDS), limits.budget - measured.used
    trainings = limits.trainings or affordable(left, measured.pace, epochs)
    remarks = []
    if trainings < fewest and limits.epochs is None and limits.trainings is None:
        epochs = max(1, epochs * trainings // fewest)
        trainings = affordable(left, measured.pace, epochs)
        remarks.append(
            f"the budget is short: only {counted(epochs, 'epoch')} per run, so networks will not finish learning"
        )
    if trainings < fewest:
        needed = measured.used + (fewest + 1) * epochs / measured.pace / RESERVE
        raise UsageError(
            f"{counted(trainings, 'run')} of {counted(epochs, 'epoch')} cannot compare "
            f"{counted(len(placements), 'placement')}, which takes {fewest}. Use --budget {math.ceil(needed / 60)}m, "
            "fewer --epochs, or fewer --placements."
        )
    if limits.epochs is None and not overfits(plain):
        remarks.append(f"the plain network still learns after {len(plain.loss)} epochs: this compares short runs")
    rung = fair_rung(plain, slow, epochs, measured.images)
    return Plan(tuple(placements), trainings, epochs, measured.pace, measured.used, seed, *rung), remarks


def replanned(plan: Plan, done: int, room: int, pace: float) -> Plan:
    """Return the plan with `room` runs more than are done, at this pace."""
    return plan._replace(trainings=done + room, pace=pace)


def _smooth(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The moving mean of three values; shorter at both ends."""
    padded = np.pad(np.asarray(values, dtype=float), SMOOTH // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTH, 1 / SMOOTH), mode="valid")
