"""The X-ray as it was for chains alone: it finds layers by their place in an nn.Sequential, and copies the network.

It is the slow reference of sweeper/training/xray.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.core.config import RunConfig
from sweeper.core.results import TrainResult
from sweeper.core.xray import Activations, BatchNormLayer
from sweeper.data import fashion
from sweeper.training.batches import batches
from sweeper.training.device import autocast
from sweeper.training.evaluate import evaluate, subset
from sweeper.training.images import Data, to_input
from sweeper.training.networks import build_model, load_weights
from sweeper.training.seeds import seeded
from sweeper.training.xray.examine import images_in_a_pass, positions, val_images
from sweeper.training.xray.layers import BINS, HALF_RANGE
from sweeper.training.xray.shift import (
    by_channel,
    counted,
    dropped_variance,
    mean_of,
    moments,
    noise_floor,
    shift,
    variation,
)

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Dropout = nn.Dropout | nn.Dropout2d
SAMPLE = 1 << 16


class Chain:
    def __init__(self, config: RunConfig, model: nn.Sequential, images: list[Tensor]) -> None:
        self.config, self.model, self.images = config, model, images

    def norms(self) -> dict[str, Any]:
        return {name: layer for name, layer in self.model.named_children() if isinstance(layer, BatchNorm)}

    def dropped(self) -> dict[str, Any]:
        pairs = pairwise(self.model.named_children())
        return {
            name: before
            for (_, before), (name, layer) in pairs
            if isinstance(layer, BatchNorm) and isinstance(before, Dropout)
        }

    def feed(self) -> Iterator[None]:
        for pixels in self.images:
            with autocast(self.config):
                self.model(to_input(pixels, fashion.SAMPLE.spec))
            yield


@torch.inference_mode()
def examine_chain(
    config: RunConfig, result: TrainResult, data: Data
) -> tuple[tuple[BatchNormLayer, ...], tuple[float, float]]:
    """Return the layers of an X-ray, and the gain of recalibration in accuracy and loss."""
    size = images_in_a_pass(config, len(data.train))
    with seeded(config, config.epochs + 1) as generator:
        drawn = torch.randperm(len(data.train), generator=generator)[:size]
        model = load_weights(build_model(config, data.spec), result.weights)
        model.to(memory_format=torch.channels_last)
        images = [pixels for pixels, _ in batches(data.train[drawn], config, generator)]
        chain = Chain(config, model, images)
        if not chain.norms():
            return (), (math.nan, math.nan)
        return _layers(chain), _gain(chain, result, data)


def _gain(chain: Chain, result: TrainResult, data: Data) -> tuple[float, float]:
    config, model = chain.config, chain.model
    size = val_images(config, len(data.train), len(data.val))
    val = subset(data.val, size)
    before = result.evaluation if size == len(data.val) else evaluate(model, val, config)
    model.train()
    for layer in model:
        if isinstance(layer, Dropout):
            layer.eval()
    for layer in chain.norms().values():
        layer.reset_running_stats()
        layer.momentum = None
    for _ in chain.feed():
        pass
    after = evaluate(model, val, config)
    return after.accuracy - before.accuracy, before.loss - after.loss


def _layers(chain: Chain) -> tuple[BatchNormLayer, ...]:
    inputs = _eval_pass(chain)
    trained, expected = _training_pass(chain)
    places = positions(chain.config, chain.model)
    layers = []
    for name, layer in chain.norms().items():
        means, variances, lowest, highest, samples = inputs[name]
        before, after = _sides(layer, means, variances, lowest, highest, samples)
        r, m, eps = variances.mean(0), layer.running_var, layer.eps
        floor = noise_floor(variation(trained[name]), variation(variances), layer.momentum, len(variances))
        numbers = shift(r, m, eps)._asdict() | {
            "floor": mean_of(floor, counted(r, m, eps)),
            "closed_form": shift(r, expected[name], eps).ratio if name in expected else math.nan,
            "batch_noise": mean_of(variation(trained[name]), trained[name].mean(0) > eps),
        }
        layers.append(BatchNormLayer(name, places[name], layer.num_features, before=before, after=after, **numbers))
    return tuple(layers)


def _eval_pass(chain: Chain) -> dict[str, tuple[Tensor, ...]]:
    seen: dict[nn.Module, list[tuple[Tensor, ...]]] = {layer: [] for layer in chain.norms().values()}

    def record(layer: Any, args: tuple[Tensor]) -> None:
        rows = max(1, SAMPLE // (layer.num_features * len(chain.images)))
        values = by_channel(args[0])
        mean, variance = moments(values, layer.running_mean)
        pixels = values.reshape(len(args[0]), -1)
        lowest = pixels.amin(0).view(-1, values.shape[1]).amin(0)
        highest = pixels.amax(0).view(-1, values.shape[1]).amax(0)
        seen[layer].append((mean, variance, lowest, highest, values[torch.randint(len(values), (rows,))]))

    hooks = [layer.register_forward_pre_hook(record) for layer in chain.norms().values()]
    chain.model.eval()
    for _ in chain.feed():
        pass
    for hook in hooks:
        hook.remove()
    return {name: tuple(map(torch.stack, zip(*seen[layer], strict=True))) for name, layer in chain.norms().items()}


def _training_pass(chain: Chain) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    chain = Chain(chain.config, copy.deepcopy(chain.model), chain.images)
    sums: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in chain.dropped()}
    sizes: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> Any:
        def record(_: nn.Module, args: tuple[Tensor]) -> None:
            x = args[0].float()
            values = by_channel(x)
            of_images = x.flatten(2).mean(2) if x.dim() > 2 else x
            sizes[name] = len(x), len(values)
            sums[name].append((values.mean(0), values.square().mean(0), of_images.square().mean(0)))

        return record

    for name, layer in chain.dropped().items():
        layer.register_forward_pre_hook(watch(name))
    variances: dict[str, list[Tensor]] = {name: [] for name in chain.norms()}
    chain.model.train()
    for layer in chain.norms().values():
        layer.momentum = 1.0
    for _ in chain.feed():
        for name, layer in chain.norms().items():
            variances[name].append(layer.running_var.clone())
    expected = {
        name: dropped_variance(
            *(torch.stack(part).mean(0) for part in zip(*sums[name], strict=True)), 1 - layer.p, *sizes[name]
        )
        for name, layer in chain.dropped().items()
    }
    return {name: torch.stack(seen) for name, seen in variances.items()}, expected


def _sides(
    layer: Any, means: Tensor, variances: Tensor, lowest: Tensor, highest: Tensor, samples: Tensor
) -> tuple[Activations, Activations]:
    mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    low, high, sample = lowest.amin(0), highest.amax(0), samples.flatten(0, 1)
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    offset = layer.bias - slope * layer.running_mean
    return (
        _activations(mean, variance, high, sample),
        _activations(
            slope * mean + offset,
            slope.square() * variance,
            torch.maximum(slope * low, slope * high) + offset,
            slope * sample + offset,
        ),
    )


def _activations(mean: Tensor, variance: Tensor, highest: Tensor, sample: Tensor) -> Activations:
    center, total = mean.mean().item(), (variance.mean() + mean.var(correction=0)).item()
    half = HALF_RANGE * math.sqrt(total)
    low, high = (center - half, center + half) if half > 0 else (center - 0.5, center + 0.5)
    counts = sample.clamp(low, high).histc(BINS, low, high)
    shares = tuple((counts / counts.sum()).tolist())
    return Activations(center, total, (highest <= 0).float().mean().item(), low, high, shares)
