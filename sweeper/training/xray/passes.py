"""Passes of training images through the BN layers of a finished network: what the X-ray is taken from.

A pass takes what BN's running variances average over: batches of the run's size, augmented as the run augments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeper.core.config import RunConfig
from sweeper.training.batches import batches
from sweeper.training.device import autocast
from sweeper.training.evaluate import to_input
from sweeper.training.images import Images
from sweeper.training.network import build_model, load_weights
from sweeper.training.xray.shift import by_channel, dropped_variance, moments

SAMPLE: Final = 1 << 16  # values of a layer that are kept for its histogram

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Dropout = nn.Dropout | nn.Dropout2d


@dataclass(frozen=True)
class Subject:
    """A network with the weights of a run, and batches of training images, uint8 `(B, 28, 28)`, to feed it.

    Every pass takes the same ones, so that what differs between two passes is not the images.
    """

    config: RunConfig
    model: nn.Sequential
    batches: tuple[Tensor, ...]

    @classmethod
    def rebuild(
        cls, config: RunConfig, weights: Mapping[str, Any], images: Images, generator: torch.Generator
    ) -> Subject:
        """The network of `config` with `weights`, on its device, and the batches of an epoch of `images`."""
        device = torch.device(config.device)
        model = load_weights(build_model(config), weights)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(config, model, tuple(pixels for pixels, _ in batches(images.to(device), config, generator)))

    @property
    def norms(self) -> dict[str, Any]:
        """The BN layers by name, in order."""
        return {name: layer for name, layer in self.model.named_children() if isinstance(layer, BatchNorm)}

    @property
    def dropped(self) -> dict[str, Any]:
        """By the name of a BN layer, the Dropout layer right before it, where there is one."""
        pairs = pairwise(self.model.named_children())
        return {name: before for (_, before), (name, layer) in pairs
                if isinstance(layer, BatchNorm) and isinstance(before, Dropout)}  # fmt: skip

    def feed(self) -> Iterator[None]:
        """Run the batches through the network; yields after each."""
        for pixels in self.batches:
            with autocast(self.config):
                self.model(to_input(pixels))
            yield


class Inputs:
    """What enters a BN layer, batch by batch: a forward pre-hook.

    Attributes:
        means: mean of each channel, one `(C,)` a batch.
        variances: its variance, unbiased.
        lowest: its smallest value.
        highest: its largest value.
        samples: values drawn at random, rows of `(S, C)`.
    """

    def __init__(self, batches_to_come: int) -> None:
        self._batches = batches_to_come
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []
        self.lowest: list[Tensor] = []
        self.highest: list[Tensor] = []
        self.samples: list[Tensor] = []

    def __call__(self, layer: Any, args: tuple[Tensor]) -> None:
        """Look at a batch."""
        values = by_channel(args[0])  # (n, C)
        mean, variance = moments(values, layer.running_mean)
        self.means.append(mean)
        self.variances.append(variance)
        images = values.reshape(len(args[0]), -1)  # a row each; over all rows of few channels it takes 25 times as long
        self.lowest.append(images.amin(0).view(-1, values.shape[1]).amin(0))
        self.highest.append(images.amax(0).view(-1, values.shape[1]).amax(0))
        rows = max(1, SAMPLE // (values.shape[1] * self._batches))
        self.samples.append(values[torch.randint(len(values), (rows,)).to(values.device)])


class DropoutInputs:
    """What enters a Dropout layer, batch by batch: a forward pre-hook."""

    def __init__(self) -> None:
        self._sums: list[tuple[Tensor, Tensor, Tensor]] = []
        self._images = self._values = 0  # of a batch

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> None:
        """Look at a batch."""
        x = args[0].float()  # (B, C) or (B, C, H, W)
        values = by_channel(x)
        of_images = x.flatten(2).mean(2) if x.dim() > 2 else x  # (B, C)
        self._images, self._values = len(x), len(values)
        self._sums.append((values.mean(0), values.square().mean(0), of_images.square().mean(0)))

    def variance_after(self, rate: float) -> Tensor:
        """The batch variance to expect behind Dropout of `rate`, `(C,)`."""
        mean, square, image_square = (torch.stack(sums).mean(0) for sums in zip(*self._sums, strict=True))
        return dropped_variance(mean, square, image_square, 1 - rate, self._images, self._values)


def eval_pass(subject: Subject) -> dict[str, Inputs]:
    """What enters each BN layer when the network evaluates training images."""
    watchers = {name: Inputs(len(subject.batches)) for name in subject.norms}
    subject.model.eval()
    with _watching((layer, watchers[name]) for name, layer in subject.norms.items()):
        for _ in subject.feed():
            pass
    return watchers


def training_pass(subject: Subject) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The batch variances that each BN layer computes in training mode, `(K, C)`, and, for those with Dropout right
    before them, the one that the closed form expects, `(C,)`. The running statistics are lost."""
    dropped = subject.dropped
    watchers = {name: DropoutInputs() for name in dropped}
    variances: dict[str, list[Tensor]] = {name: [] for name in subject.norms}
    subject.model.train()
    for layer in subject.norms.values():
        layer.momentum = 1.0  # its running variance is then that of the last batch
    with _watching((layer, watchers[name]) for name, layer in dropped.items()):
        for _ in subject.feed():
            for name, layer in subject.norms.items():
                variances[name].append(layer.running_var.clone())
    expected = {name: watchers[name].variance_after(layer.p) for name, layer in dropped.items()}
    return {name: torch.stack(seen) for name, seen in variances.items()}, expected


def recalibrate(subject: Subject) -> None:
    """Put new running statistics into the BN layers: those of training with Dropout off.

    Each becomes the plain mean over the batches of the pass of the batch's mean, and of its unbiased variance. As
    in training, a layer passes on a batch that it has normalised by the batch's own statistics.
    """
    subject.model.train()
    for layer in subject.model:
        if isinstance(layer, Dropout):
            layer.eval()
    for layer in subject.norms.values():
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
    for _ in subject.feed():
        pass


@contextmanager
def _watching(pairs: Any) -> Iterator[None]:
    """Within the block, each layer shows its inputs to its watcher."""
    with ExitStack() as stack:
        for layer, watcher in pairs:
            stack.callback(layer.register_forward_pre_hook(watcher).remove)
        yield
