"""The X-ray: how BatchNorm and Dropout interact in the final weights of a run.

`examine` rebuilds the network and draws from the random numbers of an epoch after the last, so that the result's
weights and history stay as they are.

    one pass in eval mode                           r; the activations before and after each BN layer
    one pass in training mode                       batch noise; the closed form for Dropout right before BN
    one pass in training mode with Dropout off      recalibrated running statistics
    validation images before and after              recalibration gain

docs/xray.md says what each number means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeper.core.config import Placement, RunConfig
from sweeper.core.results import Stability, TrainResult
from sweeper.core.xray import Activations, BatchNormLayer, XRay
from sweeper.training.evaluate import evaluate, subset
from sweeper.training.images import Data
from sweeper.training.network import load_weights
from sweeper.training.seeds import seeded
from sweeper.training.xray.passes import BatchNorm, Inputs, Subject, eval_pass, recalibrate, training_pass
from sweeper.training.xray.shift import counted, mean_of, noise_floor, shift, variation

TRAINED_PER_IMAGE: Final = 120  # a pass takes one image for so many that the run trained on
TRAINED_PER_VAL_IMAGE: Final = 72
FEWEST, MOST = 512, 4_096  # images in a pass
FEWEST_VAL: Final = 1_000
FEWEST_BATCHES: Final = 4
BINS: Final = 48
HALF_RANGE: Final = 4  # of a histogram, standard deviations


@torch.inference_mode()
def examine(config: RunConfig, result: TrainResult, data: Data) -> XRay:
    """The X-ray of `result`, which training `config` on `data` led to."""
    begun = perf_counter()
    size = images_in_a_pass(config, len(data.train))
    layers: tuple[BatchNormLayer, ...] = ()
    gain = math.nan, math.nan
    with seeded(config, config.epochs + 1) as generator:
        drawn = torch.randperm(len(data.train), generator=generator)[:size]  # others for each seed: their bias averages
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
    """How many of `available` training images a pass takes: whole batches, and more after a longer training."""
    wanted = min(max(config.epochs * available // TRAINED_PER_IMAGE, FEWEST), MOST)
    count = max(math.ceil(wanted / config.batch_size), FEWEST_BATCHES)
    return config.batch_size * min(count, available // config.batch_size)


def val_images(config: RunConfig, trained: int, available: int) -> int:
    """How many of `available` validation images tell the recalibration gain, after epochs of `trained` images."""
    return min(max(config.epochs * trained // TRAINED_PER_VAL_IMAGE, FEWEST_VAL), available)


def _recalibration_gain(subject: Subject, result: TrainResult, data: Data) -> tuple[float, float]:
    """Accuracy after recalibration minus before, NLL before minus after."""
    config, model = subject.config, subject.model
    size = val_images(config, len(data.train), len(data.val))
    val = subset(data.val, size).to(torch.device(config.device))
    load_weights(model, result.weights)
    before = result.evaluation if size == len(data.val) else evaluate(model, val, config)
    recalibrate(subject)
    after = evaluate(model, val, config)
    return after.accuracy - before.accuracy, before.loss - after.loss


def _examine_layers(subject: Subject) -> tuple[BatchNormLayer, ...]:
    inputs = eval_pass(subject)
    running = {name: layer.running_var.clone() for name, layer in subject.norms.items()}
    sides = {name: _sides(layer, inputs[name]) for name, layer in subject.norms.items()}
    momenta = {name: layer.momentum for name, layer in subject.norms.items()}
    in_training, expected = training_pass(subject)
    places = dict(positions(subject))
    return tuple(
        BatchNormLayer(
            name=name,
            position=places[name],
            channels=layer.num_features,
            before=sides[name][0],
            after=sides[name][1],
            **_compare(
                evaluated=torch.stack(inputs[name].variances),
                trained=in_training[name],
                running=running[name],
                expected=expected.get(name),
                momentum=momenta[name],
                eps=layer.eps,
            ),
        )
        for name, layer in subject.norms.items()
    )


def _compare(
    *, evaluated: Tensor, trained: Tensor, running: Tensor, expected: Tensor | None, momentum: float, eps: float
) -> dict[str, Any]:
    """The numbers of a layer from its batch variances in eval and training mode, `(K, C)`, its running variance and
    the one that the closed form expects, `(C,)`."""
    r = evaluated.mean(0)
    found, which = shift(r, running, eps), counted(r, running, eps)
    floor = noise_floor(variation(trained), variation(evaluated), momentum, len(evaluated))
    return {
        "ratio": found.ratio,
        "signed": found.signed,
        "spread": found.spread,
        "left_out": found.left_out,
        "floor": mean_of(floor, which),
        "closed_form": math.nan if expected is None else shift(r, expected, eps).ratio,
        "batch_noise": mean_of(variation(trained), trained.mean(0) > eps),
    }


def positions(subject: Subject) -> Iterator[tuple[str, str]]:
    """The name of each BN layer, and which weight layer it stands before or after."""
    before = subject.config.network_placement is Placement.IC
    count = {nn.Conv2d: 0, nn.Linear: 0}
    for name, layer in subject.model.named_children():
        kind = nn.Linear if isinstance(layer, nn.BatchNorm1d) else nn.Conv2d
        if type(layer) in count:
            count[type(layer)] += 1
        elif isinstance(layer, BatchNorm):
            number = count[kind] + before
            yield name, f"{'before' if before else 'after'} {'linear' if kind is nn.Linear else 'conv'} {number}"


def _sides(layer: Any, inputs: Inputs) -> tuple[Activations, Activations]:
    """The activations before and after a BN layer. In eval mode it is one line a channel, so that the moments and
    extremes before give those after."""
    means, variances = torch.stack(inputs.means), torch.stack(inputs.variances)
    mean = means.mean(0)
    variance = variances.mean(0) + means.var(0, correction=0)
    low, high, sample = (
        torch.stack(inputs.lowest).amin(0),
        torch.stack(inputs.highest).amax(0),
        torch.cat(inputs.samples),
    )
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - slope * layer.running_mean
    highest_after = torch.maximum(slope * low, slope * high) + offset
    return (
        _activations(mean, variance, high, sample),
        _activations(slope * mean + offset, slope.square() * variance, highest_after, slope * sample + offset),
    )


def _activations(mean: Tensor, variance: Tensor, highest: Tensor, sample: Tensor) -> Activations:
    """Of the means, variances and largest values of channels, `(C,)`, and a sample of their values."""
    center = mean.mean().item()
    total = (variance.mean() + mean.var(correction=0)).item()
    low, high, shares = _histogram(sample, center, HALF_RANGE * math.sqrt(total))
    return Activations(center, total, (highest <= 0).float().mean().item(), low, high, shares)


def _histogram(sample: Tensor, center: float, half: float) -> tuple[float, float, tuple[float, ...]]:
    """The ends of the bins, and the share of `sample` in each; no bins for values that are not finite."""
    if not math.isfinite(center + half):
        return math.nan, math.nan, ()
    low, high = (center - half, center + half) if half > 0 else (center - 0.5, center + 0.5)
    counts = sample.clamp(low, high).histc(BINS, low, high)
    return low, high, tuple((counts / counts.sum()).tolist())
