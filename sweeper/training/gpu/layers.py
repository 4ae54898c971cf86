"""Convert the layers of a model for the captured step.

Unsupported layers raise an error; they are never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from sweeper.core.errors import ConfigError
from sweeper.training.gpu.operations import Activation, Masks, Norm
from sweeper.training.norm import NarrowBatchNorm2d

KINDS: Final = {
    nn.Conv2d, nn.Linear, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d, NarrowBatchNorm2d,
    nn.MaxPool2d, nn.ReLU,
}  # fmt: skip
ORDER: Final = ("before", "norm", "pool", "relu", "after")  # in which an activation applies its parts
SHAPE: Final = (28, 28, 1)  # of the images that the kernels take
SHOWN: Final = 100  # characters of a refused layer

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class Layer(NamedTuple):
    """A layer with weights, or Flatten, or the activation between two of them; with the names of its parameters."""

    what: nn.Module | Activation
    weight: str = ""
    bias: str = ""


def supports(model: nn.Module) -> bool:
    """Return True if the captured step supports every layer of `model`, which may be on the device `meta`."""
    try:
        parse(model, images=0)
    except ConfigError:
        return False
    return True


def parse(model: nn.Module, images: int) -> list[Layer]:
    """Return the layers of `model` in order, neighbouring activations joined; masks have room for `images` images.

    Raises:
        ConfigError: the captured step does not support one of them.
    """
    if type(model) is not nn.Sequential or not any(isinstance(layer, nn.Linear) for layer in model):
        raise _refused("the network", model)
    _, *children = model.named_modules(remove_duplicate=False)
    layers = list(_joined(_read(children, images)))
    known = {name for name, _ in model.named_parameters()} | {""}
    for layer in layers:
        if not known.issuperset(layer[1:]):  # one module in two places
            raise ConfigError(f"{layer.weight}: the captured step on a GPU does not support shared weights")
    return layers


def _read(children: list[tuple[str, nn.Module]], images: int) -> Iterator[Layer]:
    """Yield each layer by itself."""
    width, flat = 0, False  # channels, or features once the images are flat
    for position, (name, layer) in enumerate(children):
        if not _is_supported(layer, flat) or (position == 0 and not _takes_images(layer)):
            raise _refused(name, layer)
        following = [other for _, other in children[position + 1 :]]
        match layer:
            case nn.Conv2d() | nn.Linear():
                width = len(layer.weight)
                yield _with_weights(name, layer, layer)
            case nn.Flatten():
                flat = True
                width = next((other.in_features for other in following if isinstance(other, nn.Linear)), width)
                yield Layer(layer)
            case nn.Dropout(p=0) | nn.Dropout2d(p=0):
                continue
            case nn.Dropout() | nn.Dropout2d():
                device = next(children[0][1].parameters()).device
                masks = Masks(torch.ones(images, width, dtype=torch.uint8, device=device), layer.p)
                before_norm = any(isinstance(other, BatchNorm) for other in following[:1])
                yield Layer(Activation(before=masks) if before_norm else Activation(after=masks))
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                norm = Norm(layer.running_mean, layer.running_var, layer.momentum, layer.eps)  # type: ignore[arg-type]
                yield _with_weights(name, layer, Activation(norm=norm))
            case _:
                yield Layer(Activation(pool=isinstance(layer, nn.MaxPool2d), relu=isinstance(layer, nn.ReLU)))


def _is_supported(layer: nn.Module, flat: bool) -> bool:
    """Return True if the step computes `layer` with these settings, on features if `flat`, else on images."""
    if type(layer) not in KINDS:  # not isinstance: a subclass may compute something else
        return False
    match layer:
        case nn.Conv2d():  # 3x3, and the images keep their size
            sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
            return sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        case nn.Linear():
            return flat
        case nn.Flatten():
            return (layer.start_dim, layer.end_dim) == (1, -1)
        case nn.Dropout() | nn.Dropout2d():  # of features, or of whole channels
            return layer.p == 0 or (layer.p < 1 and flat == isinstance(layer, nn.Dropout))
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return layer.affine and layer.running_mean is not None and layer.momentum is not None
        case nn.MaxPool2d():
            pooled = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
            return pooled == (2, 2, 0, 1, False)
    return True


def _takes_images(layer: nn.Module) -> bool:
    """Return True if the layer takes images of one channel, as the first layer of the step does."""
    return isinstance(layer, nn.Conv2d) and layer.in_channels == 1


def _with_weights(name: str, layer: nn.Module, what: nn.Module | Activation) -> Layer:
    return Layer(what, f"{name}.weight", f"{name}.bias" if layer.bias is not None else "")


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
    """Return one activation that does both, if there is one."""
    if not isinstance(one.what, Activation) or not isinstance(other.what, Activation):
        return None
    done, added = _parts_of(one.what), _parts_of(other.what)
    if max(map(ORDER.index, done)) >= min(map(ORDER.index, added)):
        return None
    return Layer(replace(one.what, **added), one.weight or other.weight, one.bias or other.bias)


def _parts_of(activation: Activation) -> dict[str, Any]:
    return {name: value for name in ORDER if (value := getattr(activation, name))}
