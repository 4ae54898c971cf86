"""Cross-validation: train all folds in step, one epoch each at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult, Evaluation, Training, TrainResult
from sweeper.training.images import Data
from sweeper.training.loop import train

Train = Callable[[RunConfig, Data], Training]


def cross_validate(config: RunConfig, folds: Sequence[Data], train_one: Train = train) -> Training:
    """Train one model per fold, all in step by `train_one`, and yield the mean over folds of each epoch."""
    trainings = [train_one(config, data) for data in folds]
    history: list[EpochResult] = []
    for _ in range(config.epochs):
        history.append(_mean([next(training) for training in trainings]))
        yield history[-1]
    results = [finish(training) for training in trainings]
    last = history[-1]
    confusion = np.sum([r.evaluation.confusion for r in results], axis=0)
    return TrainResult(
        history=tuple(history),
        weights={},
        evaluation=Evaluation(
            last.val_loss, last.val_accuracy, last.val_ece, confusion, classes=results[0].evaluation.classes
        ),
        fold_accuracies=tuple(r.evaluation.accuracy for r in results),
    )


def finish(training: Training) -> TrainResult:
    """Exhaust a training generator and return its result."""
    while True:
        try:
            next(training)
        except StopIteration as stop:
            result: TrainResult = stop.value
            return result


def _mean(results: Sequence[EpochResult]) -> EpochResult:
    """Return the mean of each measured value and the sum of the seconds."""
    measured = [f.name for f in fields(EpochResult) if f.name != "beside"]
    values = {name: sum(getattr(r, name) for r in results) / len(results) for name in measured}
    seconds = sum(r.epoch_s for r in results)
    return EpochResult(**values | {"epoch": results[0].epoch, "epoch_s": seconds})
