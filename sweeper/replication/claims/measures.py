"""Measures of one run, each a single number: final values, slopes, epochs, seconds.

All values are those of the last epoch, not of the best one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from sweeper.replication.runs import ArmRun

OVERFITTING: Final = "NLL, last epoch - some earlier epoch"


@dataclass(frozen=True, eq=False)
class Measure:
    """One number of a run.

    `of` computes it for a complete run, NaN if the run does not have it. `diverged` does so for a run that diverged:
    accuracy and NLL are then those of a uniform guess, so that an arm does not gain by losing its worst seeds. A
    measure without such a value leaves the run out (NaN).
    """

    name: str
    unit: str
    of: Callable[[ArmRun], float]
    diverged: Callable[[ArmRun], float] = lambda _: math.nan

    def __call__(self, run: ArmRun) -> float:
        """The number."""
        return self.of(run) if run.state == "complete" else self.diverged(run)


def _last(key: str) -> Callable[[ArmRun], float]:
    return lambda run: run.epochs[-1].get(key, math.nan) if run.epochs else math.nan


def _final(key: str) -> Callable[[ArmRun], float]:
    return lambda run: run.final.get(key, math.nan)


def chance(run: ArmRun) -> float:
    """The accuracy of a uniform guess."""
    return 1 / run.classes


def uniform(run: ArmRun) -> float:
    """The NLL of a uniform guess, in nats."""
    return math.log(run.classes)


def series(run: ArmRun, key: str) -> list[float]:
    """Return a metric of each epoch."""
    return [epoch.get(key, math.nan) for epoch in run.epochs]


def slope(values: Sequence[float]) -> float:
    """The slope of the least-squares line, per epoch; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    x = np.arange(len(values)) - (len(values) - 1) / 2
    return float(x @ np.asarray(values) / (x @ x))


def last_part(values: Sequence[float], part: int) -> Sequence[float]:
    """The last of `part` equal parts, of at least two values."""
    return values[-max(2, -(-len(values) // part)) :]


def crossing(values: Sequence[float], threshold: float, before: float) -> float:
    """Epochs until `values` reach `threshold`, linear between epochs, starting from `before` at epoch 0.

    One more than the number of epochs if they never do.
    """
    for epoch, value in enumerate(values, start=1):
        if value >= threshold:
            return epoch - (value - threshold) / (value - before)
        before = value
    return float(len(values) + 1)


def onset(run: ArmRun) -> float:
    """The epoch of the lowest validation NLL, as a share of all epochs."""
    losses = series(run, "val/loss")
    return (1 + int(np.nanargmin(losses))) / len(losses)


def _gain_by_doubling(run: ArmRun) -> float:
    """Train accuracy at the end minus that at half of the epochs."""
    values = series(run, "train/accuracy")
    return values[-1] - values[len(values) // 2 - 1]


def _log_seconds(run: ArmRun) -> float:
    """Log of the median seconds of an epoch, without the first, which allocates memory.

    NaN for trainings that were stacked or shared a GPU: they have no time of their own.
    """
    if any(name in epoch for epoch in run.epochs for name in ("stack/members", "time/beside")):
        return math.nan
    values = series(run, "time/epoch_s")
    typical = median(values[1:] or values or [math.nan])
    return math.log(typical) if typical > 0 else math.nan


def since(epoch: int) -> Measure:
    """Final validation NLL minus that of `epoch`."""

    def rise(run: ArmRun) -> float:
        losses = series(run, "val/loss")
        return losses[-1] - losses[epoch - 1] if epoch < len(losses) else math.nan

    return Measure(f"NLL, last epoch - epoch {epoch}", "nats", rise)


def epochs_to(threshold: float) -> Measure:
    """Epochs until the validation accuracy is `threshold`."""
    name = f"epochs to {100 * threshold:.3g} % accuracy"
    return Measure(name, "epochs", lambda run: crossing(series(run, "val/accuracy"), threshold, chance(run)))


def is_stable(run: ArmRun) -> bool:
    """Return True if a run finished with at most half the validation NLL of a uniform guess."""
    return run.state == "complete" and bool(run.epochs) and run.epochs[-1]["val/loss"] <= uniform(run) / 2


ACCURACY: Final = Measure("accuracy", "points", _last("val/accuracy"), diverged=chance)
ACCURACY_COMPLETE: Final = Measure("accuracy of complete runs", "points", _last("val/accuracy"))
NLL: Final = Measure("NLL", "nats", _last("val/loss"), diverged=uniform)
GAP: Final = Measure("gap in NLL", "nats", _last("gap/loss"))
GAP_ACCURACY: Final = Measure("gap in accuracy", "points", _last("gap/accuracy"))
GAP_SLOPE: Final = Measure("gap's slope", "nats/epoch", lambda run: slope(last_part(series(run, "gap/loss"), 2)))
VAL_SLOPE: Final = Measure("val NLL's slope", "nats/epoch", lambda run: slope(last_part(series(run, "val/loss"), 5)))
TRAIN_SLOPE: Final = Measure(
    "train NLL's slope", "nats/epoch", lambda run: slope(last_part(series(run, "train/loss"), 5))
)
TRAIN_GAIN: Final = Measure("train accuracy gained", "points", _gain_by_doubling)
ECE: Final = Measure("ECE", "points", _last("val/ece"))
ERROR_CONFIDENCE: Final = Measure("confidence on errors", "points", _final("xray/error_confidence"))
VARIANCE_SHIFT: Final = Measure("variance shift", "x", _final("xray/variance_shift"))
SPIKES: Final = Measure("loss spikes", "a run", _final("xray/spikes"))
LOG_SECONDS: Final = Measure("seconds an epoch", "ratio", _log_seconds)
TRAIN_ACCURACY: Final = Measure("train accuracy", "points", _last("train/accuracy"), diverged=chance)
TRAIN_NLL: Final = Measure("train NLL", "nats", _last("train/loss"), diverged=uniform)
RECALIBRATION_ACCURACY: Final = Measure(
    "recalibration gain in accuracy", "points", _final("xray/recalibration_gain_accuracy")
)
RECALIBRATION_NLL: Final = Measure("recalibration gain in NLL", "nats", _final("xray/recalibration_gain_loss"))
MASK_VARIANCE: Final = Measure("variance of logits over masks", "", _final("xray/mask_variance"))

# Those that a claims file may name. The bounds of some are given in a hundredth of their unit.
MEASURES: Final = {
    measure.name: measure
    for measure in (
        ACCURACY, NLL, TRAIN_ACCURACY, TRAIN_NLL, GAP, GAP_ACCURACY, GAP_SLOPE, VAL_SLOPE, TRAIN_SLOPE, ECE,
        ERROR_CONFIDENCE, VARIANCE_SHIFT, RECALIBRATION_ACCURACY, RECALIBRATION_NLL, MASK_VARIANCE, LOG_SECONDS,
    )
}  # fmt: skip
PER_UNIT: Final = {"points": 100}
REACHING: Final = re.compile(r"epochs to (\d{1,3}(?:\.\d{1,3})?) % accuracy")


def find_measure(name: str) -> Measure | None:
    """Return the measure that a claims file calls `name`; None if there is none."""
    if found := REACHING.fullmatch(name):
        return epochs_to(float(found[1]) / 100)
    return MEASURES.get(name)
