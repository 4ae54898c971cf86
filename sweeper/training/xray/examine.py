"""Take the X-ray of a run: how BatchNorm and Dropout interact in its final weights (docs/explanation/xray.md).

`examine` rebuilds the network and seeds its draws like an epoch after the last one, so the run's weights and history do
not change. The batches of a pass have the run's size and augmentation, like those that BN's running variances average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeper.core.config import Placement, RunConfig
from sweeper.core.results import Evaluation, Stability, TrainResult
from sweeper.core.xray import RunXRay, XRay
from sweeper.training.batches import batches
from sweeper.training.device import autocast
from sweeper.training.dropout import dropout_layers, schedule_dropout
from sweeper.training.evaluate import evaluate, subset
from sweeper.training.images import Data, Images, to_input
from sweeper.training.networks import build_model, load_weights
from sweeper.training.seeds import seeded
from sweeper.training.xray.layers import Score, examine_layers, recalibration_gain
from sweeper.training.xray.masks import mask_variance
from sweeper.training.xray.passes import Subject

TRAINED_PER_IMAGE: Final = 120  # images × epochs of the run for one image in a pass
TRAINED_PER_VAL_IMAGE: Final = 72  # and for one validation image
FEWEST, MOST = 512, 4_096  # images in a pass
FEWEST_VAL: Final = 1_000
FEWEST_BATCHES: Final = 4


def examine(config: RunConfig, result: TrainResult, data: Data) -> RunXRay:
    """Return the X-ray of `result`, the result of training `config` on `data`."""
    begun = perf_counter()
    found = examine_weights(config, result.weights, data, result.evaluation)
    stability = result.stability or Stability(math.nan, 0, 0)
    return RunXRay(
        **vars(found),
        brier=result.evaluation.brier,
        error_confidence=result.evaluation.error_confidence,
        onset=min(result.history, key=lambda e: e.val_loss).epoch,
        grad_norm_cv=stability.grad_norm_cv,
        spikes=stability.spikes,
        nonfinite_steps=stability.nonfinite_steps,
        seconds=perf_counter() - begun,
    )


@torch.no_grad()
def examine_weights(
    config: RunConfig, weights: Mapping[str, Any], data: Data, evaluation: Evaluation | None = None
) -> XRay:
    """Return the X-ray of the network of `config` with `weights`, on the images of `data`.

    `evaluation` is the evaluation of the weights on all validation images, if it is known.
    """
    size = images_in_a_pass(config, len(data.train))
    gain = math.nan, math.nan
    with seeded(config, config.epochs + 1) as generator:
        drawn = torch.randperm(len(data.train), generator=generator)[:size]  # others for each seed
        subject = rebuild(config, weights, data.train[drawn], generator)
        layers, skipped = examine_layers(subject, positions(config, subject.model))
        if layers:
            gain = _gain(config, subject, data, evaluation)
        spread = mask_variance(subject)
    return XRay(layers, size if layers else 0, *gain, skipped=skipped, mask_variance=spread)


def rebuild(config: RunConfig, weights: Mapping[str, Any], images: Images, generator: torch.Generator) -> Subject:
    """Build the network of `config` with `weights`, on its device, and draw an epoch of `images`."""
    device = torch.device(config.device)
    model = load_weights(build_model(config, images.spec), weights)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule_dropout(dropout_layers(model), config, config.epochs)  # as the last epoch left the running statistics

    def forward(pixels: Tensor) -> Tensor:
        with autocast(config):
            logits: Tensor = model(to_input(pixels, images.spec))
        return logits

    return Subject(model, tuple(pixels for pixels, _ in batches(images.to(device), config, generator)), forward)


def images_in_a_pass(config: RunConfig, available: int) -> int:
    """Return the number of `available` training images in a pass: whole batches, more after longer training."""
    wanted = min(max(config.epochs * available // TRAINED_PER_IMAGE, FEWEST), MOST)
    count = max(math.ceil(wanted / config.batch_size), FEWEST_BATCHES)
    return config.batch_size * min(count, available // config.batch_size)


def val_images(config: RunConfig, trained: int, available: int) -> int:
    """Return the number of `available` validation images that measure the gain, after epochs of `trained` images."""
    return min(max(config.epochs * trained // TRAINED_PER_VAL_IMAGE, FEWEST_VAL), available)


def positions(config: RunConfig, model: nn.Module) -> dict[str, str]:
    """Return the position of each BN layer of a chain by its name: before or after which weight layer."""
    if not isinstance(model, nn.Sequential) or any(list(layer.children()) for layer in model):  # of blocks, for example
        return {}
    side = "before" if config.network_placement is Placement.IC else "after"
    found, convs, linears = {}, 0, 0
    for name, layer in model.named_children():
        match layer:
            case nn.Conv2d():
                convs += 1
            case nn.Linear():
                linears += 1
            case nn.BatchNorm2d():
                found[name] = f"{side} conv {convs + (side == 'before')}"
            case nn.BatchNorm1d():
                found[name] = f"{side} linear {linears + (side == 'before')}"
    return found


def _gain(config: RunConfig, subject: Subject, data: Data, evaluation: Evaluation | None) -> tuple[float, float]:
    """Return the gain of recalibration on the validation images: accuracy, and NLL in nats."""
    size = val_images(config, len(data.train), len(data.val))
    val = subset(data.val, size).to(torch.device(config.device))

    def score() -> Score:
        verdict = evaluate(subject.model, val, config)
        return Score(verdict.accuracy, verdict.loss)

    known = Score(evaluation.accuracy, evaluation.loss) if evaluation and size == len(data.val) else None
    return recalibration_gain(subject, score, known)
