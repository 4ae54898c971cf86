"""The layers of a model as the captured step takes them.

A layer that the step does not have is refused, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from sweeper.core.errors import ConfigError
from sweeper.training.gpu.operations import Activation, Masks, Norm
from sweeper.training.norm import NarrowBatchNorm2d

ORDER: Final = ("before", "norm", "pool", "relu", "after")  # in which an activation applies its parts
SHOWN: Final = 100  # characters of a refused layer


class Layer(NamedTuple):
    """A layer with weights, or Flatten, or the activation between two of them."""

    what: nn.Module | Activation
    weight: str = ""
    bias: str = ""


@dataclass
class Layers:
    """The layers of a model, in order.

    Attributes:
        steps: the layers; neighbouring activations are joined.
        masks: of each Dropout layer that drops anything, for all images of an epoch.
        rates: of those layers.
    """

    steps: list[Layer] = field(default_factory=list)
    masks: list[Masks] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def supports(model: nn.Module) -> bool:
    """Whether the captured step has every layer of `model`, which may lie on the device `meta`."""
    try:
        parse(model, images=0)
    except ConfigError:
        return False
    return True


def parse(model: nn.Module, images: int) -> Layers:
    """Read the layers of `model`; masks have room for `images` images.

    Raises:
        ConfigError: the captured step does not have one of them.
    """
    if type(model) is not nn.Sequential or not len(model):
        raise _refused("the network", model)
    _, *children = model.named_modules(remove_duplicate=False)
    reader = _Reader(children, images)
    steps = list(_joined(reader.read()))
    known = {name for name, _ in model.named_parameters()} | {""}
    for layer in steps:
        if not known.issuperset(layer[1:]):  # one module in two places
            raise ConfigError(f"{layer.weight}: the captured step on a GPU does not support shared weights")
    return Layers(steps, reader.masks, reader.rates)


class _Reader:
    """Reads layers from first to last, and keeps track of what comes out of them."""

    def __init__(self, children: list[tuple[str, nn.Module]], images: int) -> None:
        self.masks: list[Masks] = []
        self.rates: list[float] = []
        self._children = children
        self._images = images
        self._width = 0  # channels, or features once the images are flat
        self._is_flat = False
        self._device = torch.device("cpu")

    def read(self) -> Iterator[Layer]:
        kinds: dict[type, Callable[[int, Any], Iterable[Layer]]] = {
            nn.Conv2d: self._conv,
            nn.Linear: self._linear,
            nn.Flatten: self._flatten,
            nn.Dropout: self._dropout,
            nn.Dropout2d: self._dropout,
            nn.BatchNorm1d: self._batch_norm,
            nn.BatchNorm2d: self._batch_norm,
            NarrowBatchNorm2d: self._batch_norm,
            nn.MaxPool2d: self._pool,
            nn.ReLU: self._relu,
        }
        for position, (name, layer) in enumerate(self._children):
            kind = kinds.get(type(layer))  # not isinstance: a subclass may compute something else
            if kind is None or (position == 0 and not _takes_images(layer)):
                raise _refused(name, layer)
            yield from kind(position, layer)

    def _conv(self, position: int, layer: nn.Conv2d) -> Iterable[Layer]:
        """A 3x3 convolution that keeps the size of its images."""
        plain = (3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros"
        if plain != (
            layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
        ):  # fmt: skip
            raise self._refused_at(position)
        self._width = layer.out_channels
        self._device = layer.weight.device
        yield self._with_weights(position, layer)

    def _linear(self, position: int, layer: nn.Linear) -> Iterable[Layer]:
        if not self._is_flat:
            raise self._refused_at(position)
        self._width = layer.out_features
        yield self._with_weights(position, layer)

    def _flatten(self, position: int, layer: nn.Flatten) -> Iterable[Layer]:
        following = (other for _, other in self._children[position:])
        width = next((other.in_features for other in following if isinstance(other, nn.Linear)), None)
        if width is None or (layer.start_dim, layer.end_dim) != (1, -1):
            raise self._refused_at(position)
        self._width = width
        self._is_flat = True
        yield Layer(layer)

    def _dropout(self, position: int, layer: nn.Dropout | nn.Dropout2d) -> Iterable[Layer]:
        """Masks of whole channels, or of features. A rate of 0 drops nothing: there is no step for it."""
        if layer.p == 0:
            return
        if self._is_flat != isinstance(layer, nn.Dropout) or layer.p == 1:
            raise self._refused_at(position)
        kept = torch.ones(self._images, self._width, dtype=torch.uint8, device=self._device)
        masks = Masks(kept, 1 / (1 - layer.p))
        self.masks.append(masks)
        self.rates.append(layer.p)
        following = self._children[position + 1 : position + 2]
        if any(isinstance(other, nn.BatchNorm1d | nn.BatchNorm2d) for _, other in following):
            yield Layer(Activation(before=masks))
        else:
            yield Layer(Activation(after=masks))

    def _batch_norm(self, position: int, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Iterable[Layer]:
        mean, variance, momentum = layer.running_mean, layer.running_var, layer.momentum
        if mean is None or variance is None or momentum is None or not layer.affine:
            raise self._refused_at(position)
        norm = Norm(mean, variance, momentum, layer.eps)
        yield self._with_weights(position, Activation(norm=norm))

    def _pool(self, position: int, layer: nn.MaxPool2d) -> Iterable[Layer]:
        sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        if sizes != (2, 2, 0, 1, False):
            raise self._refused_at(position)
        yield Layer(Activation(pool=True))

    def _relu(self, position: int, layer: nn.ReLU) -> Iterable[Layer]:
        yield Layer(Activation(relu=True))

    def _with_weights(self, position: int, what: nn.Module | Activation) -> Layer:
        name, layer = self._children[position]
        bias = f"{name}.bias" if getattr(layer, "bias", None) is not None else ""
        return Layer(what, f"{name}.weight", bias)

    def _refused_at(self, position: int) -> ConfigError:
        return _refused(*self._children[position])


def _takes_images(layer: nn.Module) -> bool:
    """Whether the first layer takes images of one channel, as the step does."""
    return isinstance(layer, nn.Conv2d) and layer.in_channels == 1


def _refused(name: str, layer: nn.Module) -> ConfigError:
    shown = " ".join(repr(layer).split())[:SHOWN]
    return ConfigError(f"layer {name}, {shown}: the captured step on a GPU does not support it. Use the plain loop.")


def _joined(layers: Iterator[Layer]) -> Iterator[Layer]:
    """Join neighbouring activations, as far as their order allows."""
    before: Layer | None = None
    for layer in layers:
        joined = before and _both(before, layer)
        if before and not joined:
            yield before
        before = joined or layer
    if before:
        yield before


def _both(one: Layer, other: Layer) -> Layer | None:
    """One activation that does both, if there is one."""
    if not isinstance(one.what, Activation) or not isinstance(other.what, Activation):
        return None
    done, added = _parts_of(one.what), _parts_of(other.what)
    if max(map(ORDER.index, done)) >= min(map(ORDER.index, added)):
        return None
    return Layer(replace(one.what, **added), one.weight or other.weight, one.bias or other.bias)


def _parts_of(activation: Activation) -> dict[str, Any]:
    return {name: value for name in ORDER if (value := getattr(activation, name))}
