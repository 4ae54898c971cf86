"""The results of runs, as arrays and plain numbers: they cross a pipe to a process without torch."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import statistics
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors.numpy

from sweeper.core.images import Array
from sweeper.core.xray import RunXRay


@dataclass(frozen=True)
class Stability:
    """The stability of a run.

    Attributes:
        grad_norm_cv: coefficient of variation of the sampled gradient norms within an epoch, mean over the epochs; NaN
            if no epoch has two samples.
        spikes: steps whose loss is above median + 5 MAD of the 51 steps before, across epochs; MAD is the median
            distance from the median. A falling loss is not a spike, and the first 51 steps are not judged.
        nonfinite_steps: losses and sampled norms that are not finite.
    """

    grad_norm_cv: float
    spikes: int
    nonfinite_steps: int


@dataclass(frozen=True)
class EpochResult:
    """The measurements of one epoch. Losses are mean negative log-likelihoods in nats, accuracies in [0, 1].

    Train values are measured in eval mode, without augmentation, on a fixed subset as large as the validation set, so
    that the gap compares like with like.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_ece: float
    lr: float  # at the last step
    grad_norm: float  # L2 over all parameters, mean over every 8th step
    epoch_s: float  # seconds of training, without evaluation
    images_per_s: float
    beside: int = 0  # other runs on the same GPU; `epoch_s` is the elapsed time divided by 1 + beside

    @classmethod
    def of(cls, epoch: int, train: Evaluation, val: Evaluation, **others: float) -> EpochResult:
        """Return the result of an epoch from its two evaluations and its `others`, the fields from `lr` on."""
        return cls(epoch, train.loss, train.accuracy, val.loss, val.accuracy, val.ece, **others)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on labelled images.

    Attributes:
        loss: mean negative log-likelihood, in nats.
        accuracy: in [0, 1].
        ece: expected calibration error, in [0, 1].
        confusion: int64 `(classes, classes)`: rows are true classes, columns predicted ones.
        brier: mean squared distance between the probabilities and the truth, 0 to 2 (Brier 1950).
        error_confidence: mean confidence on wrong predictions, NaN if there is none.
        classes: their names.
    """

    loss: float
    accuracy: float
    ece: float
    confusion: Array
    brier: float = math.nan
    error_confidence: float = math.nan
    classes: tuple[str, ...] = ()

    @property
    def per_class_accuracy(self) -> list[float]:
        """Recall of each class, in the order of `classes`; NaN for a class without images."""
        counts = self.confusion.astype(np.float32)
        with np.errstate(invalid="ignore"):
            of_classes: list[float] = (counts.diagonal() / counts.sum(1)).tolist()
        return of_classes

    def confusion_csv(self) -> bytes:
        """Return the counts as CSV: one row per true class, one column per predicted class, then the accuracy."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true class", *self.classes, "accuracy"])
        for name, row, accuracy in zip(self.classes, self.confusion.tolist(), self.per_class_accuracy, strict=True):
            writer.writerow([name, *row, round(accuracy, 4)])
        return text.getvalue().encode()


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its epochs, the weights after the last one, and their evaluation on the validation images.

    Weights may be given as tensors on the CPU; they become arrays that share their memory.

    In cross-validation the history is the mean over folds, the confusion their sum, the weights are empty, and
    `fold_accuracies` has one value per fold; there is no `stability` and no `xray`. `start.start` adds the `xray`, or
    the reason for its failure in `xray_failure`.
    """

    history: tuple[EpochResult, ...]
    weights: dict[str, Any]
    evaluation: Evaluation
    fold_accuracies: tuple[float, ...] = ()
    stability: Stability | None = None
    xray: RunXRay | None = None
    xray_failure: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", {name: np.asarray(value) for name, value in self.weights.items()})

    def metrics(self) -> dict[str, float]:
        """Return final and best values under their names in MLflow; best is the highest validation accuracy."""
        last = self.history[-1]
        best = max(self.history, key=lambda e: (e.val_accuracy, -e.val_loss))
        values: dict[str, float] = {
            "final/val_accuracy": last.val_accuracy,
            "final/val_loss": last.val_loss,
            "final/val_ece": last.val_ece,
            "best/val_accuracy": best.val_accuracy,
            "best/val_loss": best.val_loss,
            "best/epoch": best.epoch,
        }
        if self.fold_accuracies:
            values["final/val_accuracy_fold_sd"] = statistics.stdev(self.fold_accuracies)
        return values | (self.xray.metrics() if self.xray else {})

    def weights_file(self) -> bytes:
        """Return the weights in the format of safetensors."""
        return safetensors.numpy.save(self.weights)

    @property
    def history_sha256(self) -> str:
        """SHA-256 of every measured value but the times: equal only if two runs agree in each bit."""
        digest = hashlib.sha256()
        for e in self.history:
            digest.update(struct.pack("<q7d", e.epoch, e.train_loss, e.train_accuracy, e.val_loss,
                                      e.val_accuracy, e.val_ece, e.lr, e.grad_norm))  # fmt: skip
        return digest.hexdigest()

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights, in the order of their names."""
        return hash_weights(self.weights)


def hash_weights(weights: Mapping[str, Array]) -> str:
    """Return the SHA-256 of weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()


Training = Generator[EpochResult, None, TrainResult]


MOST_ERRORS: Final = 32  # in a picture


class Mistake(NamedTuple):
    """A wrongly classified image."""

    pixels: Array  # uint8 (H, W, C)
    truth: str
    predicted: str
    confidence: float  # the softmax probability of the predicted class
