"""Evaluate a network: loss, accuracy and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.core.results import Evaluation
from sweeper.training.device import autocast
from sweeper.training.images import Images, to_input
from sweeper.training.networks import build_model, load_weights

EVAL_BATCH: Final = {"cpu": 500, "cuda": 2_500}  # images; the activations of 500 fit into a CPU's caches
ECE_BINS: Final = 15


def predict_weights(config: RunConfig, weights: Mapping[str, Any], images: Images) -> tuple[nn.Module, Tensor]:
    """Return the network of `config` with `weights`, in eval mode on the CPU, and its logits `(N, classes)`."""
    model = load_weights(build_model(config, images.spec), weights)
    device = torch.device(config.device)
    logits = predict(model.to(device), images.to(device), config)
    return model.cpu().eval(), logits.cpu()


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, config: RunConfig) -> Evaluation:
    """Evaluate `model` in eval mode on `images` of the same device."""
    return score(predict(model, images, config), images.labels, images.spec.classes)


@torch.inference_mode()
def predict(model: nn.Module, images: Images, config: RunConfig) -> Tensor:
    """Return the logits `(N, classes)`, float32, of `model` in eval mode for `images` of the same device."""
    model.eval()
    batches = images.pixels.split(EVAL_BATCH[images.pixels.device.type])
    with autocast(config):
        logits = [model(to_input(pixels, images.spec)).float() for pixels in batches]
    return torch.cat(logits)


def score(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Score `logits` `(N, classes)` against `labels` `(N,)`."""
    return evaluation_of(measure(logits, labels), classes)


def measure(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the numbers of an `Evaluation`, float64 `(5 + classes²,)`, on the device, without waiting for it.

    The calibration error is that of Guo et al. 2017 (arXiv 1706.04599), with 15 equal bins of confidence:
    the mean over bins, weighted by their share of images, of |accuracy - mean confidence|.
    """
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    correct = predicted == labels
    classes = logits.shape[1]
    confusion = torch.zeros(classes**2, dtype=torch.int64, device=logits.device)
    confusion.index_add_(0, labels * classes + predicted, torch.ones_like(labels))
    bins = (confidence.nan_to_num() * ECE_BINS).ceil().clamp(1, ECE_BINS).long() - 1
    surplus = torch.zeros(ECE_BINS, device=logits.device).index_add_(0, bins, confidence - correct.float())
    scores = [
        F.cross_entropy(logits, labels),
        correct.float().mean(dtype=torch.float64),
        surplus.abs().sum().double() / len(labels),
        (probabilities - F.one_hot(labels, classes)).square().sum(1).mean(),
        confidence.where(~correct, 0.0).sum() / (~correct).sum(),
    ]
    return torch.cat([torch.stack([number.double() for number in scores]), confusion.double()])


def measured_numbers(classes: Sequence[str]) -> int:
    """Return how many numbers `measure` returns."""
    return 5 + len(classes) ** 2


def evaluation_of(measured: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Return the `Evaluation` of the numbers from `measure`, fetched from their device."""
    loss, accuracy, ece, brier, error_confidence, *counts = measured.tolist()
    confusion = np.asarray(counts, dtype=np.int64).reshape(len(classes), len(classes))
    return Evaluation(loss, accuracy, ece, confusion, brier, error_confidence, classes)


def subset(images: Images, size: int) -> Images:
    """Return `size` images spread evenly over `images`, or all of them."""
    if len(images) <= size:
        return images
    index = torch.arange(size, device=images.labels.device) * len(images) // size
    return images[index]
