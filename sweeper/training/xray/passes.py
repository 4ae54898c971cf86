"""Passes of training images through the BN layers of a finished network, for the X-ray.

A pass takes batches as BN's running variances averaged over: of the run's size, augmented as in the run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.batches import batches
from sweeper.training.device import autocast
from sweeper.training.images import Images, to_input
from sweeper.training.networks import build_model, load_weights
from sweeper.training.xray.shift import by_channel, dropped_variance, moments

SAMPLE: Final = 1 << 16  # values of a layer for its histogram

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Dropout = nn.Dropout | nn.Dropout2d


@dataclass(frozen=True)
class Subject:
    """A network with the weights of a run, and the batches of training images, uint8 `(B, H, W, C)`, of each pass."""

    config: RunConfig
    model: nn.Module
    batches: tuple[Tensor, ...]
    spec: ImageSpec

    @classmethod
    def rebuild(
        cls, config: RunConfig, weights: Mapping[str, Any], images: Images, generator: torch.Generator
    ) -> Subject:
        """Build the network of `config` with `weights`, on its device, and draw an epoch of `images`."""
        device = torch.device(config.device)
        model = load_weights(build_model(config, images.spec), weights)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        drawn = tuple(pixels for pixels, _ in batches(images.to(device), config, generator))
        return cls(config, model, drawn, images.spec)

    @property
    def norms(self) -> dict[str, Any]:
        """The BN layers by name, in order."""
        return {name: layer for name, layer in self.model.named_children() if isinstance(layer, BatchNorm)}

    @property
    def dropped(self) -> dict[str, Any]:
        """The Dropout layers right before a BN layer, by the name of the BN layer."""
        pairs = pairwise(self.model.named_children())
        return {name: before for (_, before), (name, layer) in pairs
                if isinstance(layer, BatchNorm) and isinstance(before, Dropout)}  # fmt: skip

    def feed(self) -> Iterator[None]:
        """Run the batches through the network; yields after each."""
        for pixels in self.batches:
            with autocast(self.config):
                self.model(to_input(pixels, self.spec))
            yield


class Inputs(NamedTuple):
    """The inputs of a BN layer in K batches."""

    means: Tensor  # (K, C)
    variances: Tensor  # (K, C), unbiased
    lowest: Tensor  # (K, C)
    highest: Tensor  # (K, C)
    samples: Tensor  # (K, S, C), values drawn at random

    @classmethod
    def of(cls, x: Tensor, layer: Any, sample: int) -> Inputs:
        """Return those of one batch, without the dimension K; `sample` is the number S."""
        values = by_channel(x)  # (n, C)
        mean, variance = moments(values, layer.running_mean)
        images = values.reshape(len(x), -1)  # a row each: 25 times as fast as over the rows of few channels
        lowest = images.amin(0).view(-1, values.shape[1]).amin(0)
        highest = images.amax(0).view(-1, values.shape[1]).amax(0)
        drawn = values[torch.randint(len(values), (sample,)).to(values.device)]
        return cls(mean, variance, lowest, highest, drawn)


class DropoutInputs:
    """Records the inputs of a Dropout layer, batch by batch: a forward pre-hook."""

    def __init__(self) -> None:
        self._sums: list[tuple[Tensor, Tensor, Tensor]] = []
        self._images = self._values = 0  # of a batch

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> None:
        """Record a batch."""
        x = args[0].float()  # (B, C) or (B, C, H, W)
        values = by_channel(x)
        of_images = x.flatten(2).mean(2) if x.dim() > 2 else x  # (B, C)
        self._images, self._values = len(x), len(values)
        self._sums.append((values.mean(0), values.square().mean(0), of_images.square().mean(0)))

    def variance_after(self, rate: float) -> Tensor:
        """Return the batch variance to expect behind Dropout of `rate`, `(C,)`."""
        mean, square, image_square = (torch.stack(sums).mean(0) for sums in zip(*self._sums, strict=True))
        return dropped_variance(mean, square, image_square, 1 - rate, self._images, self._values)


def eval_pass(subject: Subject) -> dict[str, Inputs]:
    """Return the inputs of each BN layer while the network evaluates the batches."""
    seen: dict[nn.Module, list[Inputs]] = {layer: [] for layer in subject.norms.values()}

    def record(layer: Any, args: tuple[Tensor]) -> None:
        rows = max(1, SAMPLE // (layer.num_features * len(subject.batches)))
        seen[layer].append(Inputs.of(args[0], layer, rows))

    hooks = [layer.register_forward_pre_hook(record) for layer in subject.norms.values()]
    subject.model.eval()
    for _ in subject.feed():
        pass
    for hook in hooks:
        hook.remove()
    return {name: Inputs(*map(torch.stack, zip(*seen[layer], strict=True))) for name, layer in subject.norms.items()}


def training_pass(subject: Subject) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the batch variances of each BN layer in training mode, `(K, C)`, and those to expect, `(C,)`.

    The latter are by the closed form, for layers with Dropout right before them. The network stays as it is.
    """
    subject = replace(subject, model=copy.deepcopy(subject.model))
    watchers = {name: DropoutInputs() for name in subject.dropped}
    for name, layer in subject.dropped.items():
        layer.register_forward_pre_hook(watchers[name])
    variances: dict[str, list[Tensor]] = {name: [] for name in subject.norms}
    subject.model.train()
    for layer in subject.norms.values():
        layer.momentum = 1.0  # its running variance is then that of the last batch
    for _ in subject.feed():
        for name, layer in subject.norms.items():
            variances[name].append(layer.running_var.clone())
    expected = {name: watchers[name].variance_after(layer.p) for name, layer in subject.dropped.items()}
    return {name: torch.stack(seen) for name, seen in variances.items()}, expected


def recalibrate(subject: Subject) -> None:
    """Give the BN layers of `subject` the running statistics of training with Dropout off.

    They become the plain means over the batches of the pass, of a batch's mean and of its unbiased variance. As in
    training, a layer normalises a batch by the batch's own statistics.
    """
    subject.model.train()
    for layer in subject.model.modules():
        if isinstance(layer, Dropout):
            layer.eval()
    for layer in subject.norms.values():
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
    for _ in subject.feed():
        pass
