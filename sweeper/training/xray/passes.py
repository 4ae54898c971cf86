"""Passes of batches through a network for the X-ray, with hooks on its BN and Dropout layers.

The hooks see the layers in the order in which the network calls them. So the network may be any module: a chain, a
graph with shortcuts, or one that calls a layer several times. A pass leaves the network unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sweeper.training.xray.dropout import DropoutWatch, first_of, is_dropout
from sweeper.training.xray.shift import by_channel, moments

SAMPLE: Final = 1 << 16  # values of a layer for its histogram

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
T = TypeVar("T")
Calls = dict[nn.Module, list[list[T]]]  # what was recorded of each layer: a list a batch, with an item a call


@dataclass(frozen=True)
class Subject:
    """A network, the batches of each pass, and the function that runs the network on one of them."""

    model: nn.Module
    batches: Sequence[Any]
    forward: Callable[[Any], Any]

    @property
    def norms(self) -> dict[str, Any]:
        """The BN layers by name."""
        return {name: layer for name, layer in self.model.named_modules() if isinstance(layer, BatchNorm)}

    @property
    def tracked(self) -> tuple[Any, ...]:
        """The BN layers with running statistics."""
        return tuple(layer for layer in self.norms.values() if layer.running_var is not None)

    def enter_training(self) -> None:
        """Put the network into training mode. If it is in that mode already, layers in eval mode stay frozen."""
        if not self.model.training:
            self.model.train()


class Inputs(NamedTuple):
    """The inputs of a BN layer in one call; for K calls, each field has a leading dimension K."""

    means: Tensor  # (K, C)
    variances: Tensor  # (K, C), unbiased
    lowest: Tensor  # (K, C)
    highest: Tensor  # (K, C)
    samples: Tensor  # (K, S, C), values drawn at random

    @classmethod
    def of(cls, x: Tensor, layer: Any, sample: int) -> Inputs:
        """Return the inputs of one call, without the dimension K, with a sample of S values."""
        values = by_channel(x)  # (n, C)
        mean, variance = moments(values, layer.running_mean)
        images = values.reshape(len(x), -1)  # a row each: 25 times as fast as over the rows of few channels
        lowest = images.amin(0).view(-1, values.shape[1]).amin(0)
        highest = images.amax(0).view(-1, values.shape[1]).amax(0)
        drawn = values[torch.randint(len(values), (sample,)).to(values.device)]
        return cls(mean, variance, lowest, highest, drawn)

    @classmethod
    def stack(cls, calls: Sequence[Inputs]) -> Inputs:
        """Return the inputs of K calls."""
        return cls(*map(torch.stack, zip(*calls, strict=True)))


def eval_pass(subject: Subject) -> Calls[Inputs]:
    """Return the inputs of each BN layer with running statistics while the network evaluates the batches."""
    seen: list[dict[nn.Module, list[Inputs]]] = []

    def record(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        rows = max(1, SAMPLE // (layer.num_features * len(subject.batches)))
        seen[-1].setdefault(layer, []).append(Inputs.of(first_of(args, kwargs), layer, rows))

    with unchanged(subject.model), ExitStack() as hooks:
        for layer in subject.tracked:
            hooks.enter_context(layer.register_forward_pre_hook(record, with_kwargs=True))
        subject.model.eval()
        for batch in subject.batches:
            seen.append({})
            subject.forward(batch)
    return _by_layer(seen)


def training_pass(subject: Subject) -> tuple[Calls[Tensor], DropoutWatch]:
    """Return the batch variances `(C,)` of each BN layer that training updates, and the Dropout before it."""
    seen: list[dict[nn.Module, list[Tensor]]] = []
    watch = DropoutWatch()

    def record(layer: Any, *_: Any) -> None:
        if layer.training:
            seen[-1].setdefault(layer, []).append(layer.running_var.clone())

    with unchanged(subject.model), ExitStack() as hooks:
        subject.enter_training()
        for layer in subject.tracked:
            layer.momentum = 1.0  # its running variance is then that of the last batch
            hooks.enter_context(layer.register_forward_hook(record))
            hooks.enter_context(layer.register_forward_pre_hook(watch.enter_norm, with_kwargs=True))
        for layer in filter(is_dropout, subject.model.modules()):
            hooks.enter_context(watch.follow(layer))
        for batch in subject.batches:
            seen.append({})
            watch.begin_batch()
            subject.forward(batch)
    return _by_layer(seen), watch


def recalibrate(subject: Subject) -> None:
    """Give the BN layers of `subject` the running statistics of training with Dropout off.

    These are the means of the batch means and of the unbiased batch variances over the pass. As in
    training, a layer normalises a batch by the batch's own statistics. The network stays in training mode.
    """
    subject.enter_training()
    for layer in filter(is_dropout, subject.model.modules()):
        layer.eval()
    for layer in subject.tracked:
        if layer.training:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative mean
    for batch in subject.batches:
        subject.forward(batch)


def _by_layer(seen: Sequence[dict[nn.Module, list[T]]]) -> Calls[T]:
    """Return the records of each layer, in the order of first calls."""
    layers = dict.fromkeys(layer for batch in seen for layer in batch)
    return {layer: [batch[layer] for batch in seen if layer in batch] for layer in layers}


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the modes, buffers and momenta of `model` after the block, which works on copies of the buffers.

    The model itself is not copied: one that holds activations cannot be, and a replaced forward method may be bound to
    the original.
    """
    modules = tuple(model.modules())
    modes = [module.training for module in modules]
    momenta = {module: module.momentum for module in modules if isinstance(module, BatchNorm)}
    buffers = [(module, *named) for module in modules for named in module.named_buffers(recurse=False)]
    copies = {buffer: buffer.clone() for _, _, buffer in buffers}  # a buffer of two modules stays one
    try:
        for module, name, buffer in buffers:
            setattr(module, name, copies[buffer])
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
