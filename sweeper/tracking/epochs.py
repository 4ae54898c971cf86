"""An `EpochResult` as the metrics that are stored of it, and back."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from sweeper.core.results import EpochResult

STACKED: Final = "stack/members"  # of epochs that an earlier version trained in a stack, on a CPU


def epoch_metrics(result: EpochResult) -> dict[str, float]:
    """Return the metrics of an epoch under their names in MLflow."""
    return {
        "train/loss": result.train_loss,
        "train/accuracy": result.train_accuracy,
        "val/loss": result.val_loss,
        "val/accuracy": result.val_accuracy,
        "val/ece": result.val_ece,
        "gap/loss": result.val_loss - result.train_loss,
        "gap/accuracy": result.train_accuracy - result.val_accuracy,
        "lr": result.lr,
        "grad_norm": result.grad_norm,
        "time/epoch_s": result.epoch_s,
        "time/images_per_s": result.images_per_s,
    } | ({"time/beside": result.beside} if result.beside else {})


def read_epoch(number: int, metrics: Mapping[str, float]) -> EpochResult:
    """Return the epoch with these metrics. A value that was not stored, such as the time of a duplicate, is NaN."""
    stored = defaultdict(lambda: math.nan, metrics)
    return EpochResult(
        epoch=number,
        train_loss=stored["train/loss"],
        train_accuracy=stored["train/accuracy"],
        val_loss=stored["val/loss"],
        val_accuracy=stored["val/accuracy"],
        val_ece=stored["val/ece"],
        lr=stored["lr"],
        grad_norm=stored["grad_norm"],
        epoch_s=stored["time/epoch_s"],
        images_per_s=stored["time/images_per_s"],
        beside=int(metrics.get("time/beside", 0)),
    )
