"""Take the X-ray: how BatchNorm and Dropout interact in the final weights of a run. docs/xray.md explains each number.

`examine` rebuilds the network and seeds its draws as an epoch after the last one: the run's weights and history stay
as they are.

    one pass in eval mode                           r; the activations before and after each BN layer
    one pass in training mode                       batch noise; the closed form for Dropout right before BN
    one pass in training mode with Dropout off      recalibrated running statistics
    validation images before and after              recalibration gain
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeper.core.config import Placement, RunConfig
from sweeper.core.results import Stability, TrainResult
from sweeper.core.xray import Activations, BatchNormLayer, XRay
from sweeper.training.evaluate import evaluate, subset
from sweeper.training.images import Data
from sweeper.training.seeds import seeded
from sweeper.training.xray.passes import Inputs, Subject, eval_pass, recalibrate, training_pass
from sweeper.training.xray.shift import counted, mean_of, noise_floor, shift, variation

TRAINED_PER_IMAGE: Final = 120  # images × epochs of the run for one image in a pass
TRAINED_PER_VAL_IMAGE: Final = 72  # and for one validation image
FEWEST, MOST = 512, 4_096  # images in a pass
FEWEST_VAL: Final = 1_000
FEWEST_BATCHES: Final = 4
BINS: Final = 48
HALF_RANGE: Final = 4  # of a histogram, in standard deviations


@torch.inference_mode()
def examine(config: RunConfig, result: TrainResult, data: Data) -> XRay:
    """Return the X-ray of `result`, the result of training `config` on `data`."""
    begun = perf_counter()
    size = images_in_a_pass(config, len(data.train))
    layers: tuple[BatchNormLayer, ...] = ()
    gain = math.nan, math.nan
    with seeded(config, config.epochs + 1) as generator:
        drawn = torch.randperm(len(data.train), generator=generator)[:size]  # others for each seed
        subject = Subject.rebuild(config, result.weights, data.train[drawn], generator)
        if subject.norms:
            layers = _examine_layers(subject)
            gain = _recalibration_gain(subject, result, data)
    stability = result.stability or Stability(math.nan, 0, 0)
    return XRay(
        layers=layers,
        images=size if layers else 0,
        recalibration_gain_accuracy=gain[0],
        recalibration_gain_loss=gain[1],
        brier=result.evaluation.brier,
        error_confidence=result.evaluation.error_confidence,
        onset=min(result.history, key=lambda e: e.val_loss).epoch,
        grad_norm_cv=stability.grad_norm_cv,
        spikes=stability.spikes,
        nonfinite_steps=stability.nonfinite_steps,
        seconds=perf_counter() - begun,
    )


def images_in_a_pass(config: RunConfig, available: int) -> int:
    """Return how many of `available` training images a pass takes: whole batches, more after a longer training."""
    wanted = min(max(config.epochs * available // TRAINED_PER_IMAGE, FEWEST), MOST)
    count = max(math.ceil(wanted / config.batch_size), FEWEST_BATCHES)
    return config.batch_size * min(count, available // config.batch_size)


def val_images(config: RunConfig, trained: int, available: int) -> int:
    """Return how many of `available` validation images measure the gain, after epochs of `trained` images."""
    return min(max(config.epochs * trained // TRAINED_PER_VAL_IMAGE, FEWEST_VAL), available)


def _recalibration_gain(subject: Subject, result: TrainResult, data: Data) -> tuple[float, float]:
    """Return accuracy after recalibration minus before, and NLL before minus after."""
    config, model = subject.config, subject.model
    size = val_images(config, len(data.train), len(data.val))
    val = subset(data.val, size).to(torch.device(config.device))
    before = result.evaluation if size == len(data.val) else evaluate(model, val, config)
    recalibrate(subject)
    after = evaluate(model, val, config)
    return after.accuracy - before.accuracy, before.loss - after.loss


def _examine_layers(subject: Subject) -> tuple[BatchNormLayer, ...]:
    inputs = eval_pass(subject)
    in_training, expected = training_pass(subject)
    places = positions(subject)
    layers = []
    for name, layer in subject.norms.items():
        before, after = _sides(layer, inputs[name])
        numbers = _compare(layer, inputs[name].variances, in_training[name], expected.get(name))
        layers.append(BatchNormLayer(name, places[name], layer.num_features, before=before, after=after, **numbers))
    return tuple(layers)


def _compare(layer: Any, evaluated: Tensor, trained: Tensor, expected: Tensor | None) -> dict[str, Any]:
    """Return the numbers of a BN layer.

    Args:
        layer: the layer, with the running statistics of the run.
        evaluated: batch variances of its input in eval mode, `(K, C)`.
        trained: the same in training mode.
        expected: the batch variance by the closed form, `(C,)`, with Dropout right before the layer.
    """
    r, m, eps = evaluated.mean(0), layer.running_var, layer.eps
    floor = noise_floor(variation(trained), variation(evaluated), layer.momentum, len(evaluated))
    return shift(r, m, eps)._asdict() | {
        "floor": mean_of(floor, counted(r, m, eps)),
        "closed_form": math.nan if expected is None else shift(r, expected, eps).ratio,
        "batch_noise": mean_of(variation(trained), trained.mean(0) > eps),
    }


def positions(subject: Subject) -> dict[str, str]:
    """Return the position of each BN layer by its name: before or after which weight layer."""
    side = "before" if subject.config.network_placement is Placement.IC else "after"
    found, convs, linears = {}, 0, 0
    for name, layer in subject.model.named_children():
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


def _sides(layer: Any, inputs: Inputs) -> tuple[Activations, Activations]:
    """Return the activations before and after a BN layer.

    In eval mode the layer is a line for each channel: moments and extremes before it give those after it.
    """
    mean = inputs.means.mean(0)
    variance = inputs.variances.mean(0) + inputs.means.var(0, correction=0)
    low, high = inputs.lowest.amin(0), inputs.highest.amax(0)
    sample = inputs.samples.flatten(0, 1)
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - slope * layer.running_mean
    highest_after = torch.maximum(slope * low, slope * high) + offset
    return (
        _activations(mean, variance, high, sample),
        _activations(slope * mean + offset, slope.square() * variance, highest_after, slope * sample + offset),
    )


def _activations(mean: Tensor, variance: Tensor, highest: Tensor, sample: Tensor) -> Activations:
    """Summarise the means, variances and largest values of channels, `(C,)`, and a sample of their values."""
    center = mean.mean().item()
    total = (variance.mean() + mean.var(correction=0)).item()
    low, high, shares = _histogram(sample, center, HALF_RANGE * math.sqrt(total))
    return Activations(center, total, (highest <= 0).float().mean().item(), low, high, shares)


def _histogram(sample: Tensor, center: float, half: float) -> tuple[float, float, tuple[float, ...]]:
    """Return the ends of the bins and the share of `sample` in each; no bins if a value is not finite."""
    if not math.isfinite(center + half):
        return math.nan, math.nan, ()
    low, high = (center - half, center + half) if half > 0 else (center - 0.5, center + 0.5)
    counts = sample.clamp(low, high).histc(BINS, low, high)
    return low, high, tuple((counts / counts.sum()).tolist())
