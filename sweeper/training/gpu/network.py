"""A network whose parameters lie in one row of memory, so that a step is a few large operations.

`build_model` makes the model. Its parameters become views of the row: it can be evaluated and saved at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.core.images import ImageSpec
from sweeper.training.gpu.layers import parse
from sweeper.training.gpu.operations import PATCH, Activation, Moments, Plain, Step


@dataclass(frozen=True)
class Place:
    """The place of a parameter in the row, and its shape there.

    A kernel is `(out, 3, 3, in)`, that of the first convolution `(out, PATCH)`.
    """

    begin: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The index behind its last value."""
        return self.begin + math.prod(self.shape)

    def of(self, row: Tensor) -> Tensor:
        """Return the parameter in a row, as a step takes it: a kernel is `(out, in, 3, 3)`."""
        values = row[self.begin : self.end].view(self.shape)
        return values.permute(0, 3, 1, 2) if len(self.shape) == 4 else values


class Network:
    """The layers of a model on its device, for steps forward and back.

    Attributes:
        model: the model, still the same network.
        places: the parameters in the row, by name.
        moments: the row of parameters, weights and kernels first, with the optimizer's moments.
        parts: numbers of parameters with gradients in the precision of the network, and in float32 for BatchNorm.
        masks: those of each Dropout layer with a rate above 0, in order.

    Raises:
        ConfigError: the captured step does not support one of the layers.
    """

    def __init__(
        self, model: nn.Module, spec: ImageSpec, images: int, step: Step, dtype: torch.dtype, decay: float,
        parts: Plain,
    ) -> None:  # fmt: skip
        self.model = model
        self._standardise = 1 / (255 * spec.std[0]), spec.mean[0] / spec.std[0]
        self._parts, self._step, self._dtype = parts, step, dtype
        self._layers = parse(model, images)
        activations = [layer.what for layer in self._layers if isinstance(layer.what, Activation)]
        self.masks = [masks for what in activations for masks in (what.before, what.after) if masks is not None]
        named = dict(model.named_parameters())
        self._first: nn.Conv2d = next(layer for layer in model.children() if isinstance(layer, nn.Conv2d))
        of_norm = {name for layer in self._layers if isinstance(layer.what, Activation) for name in layer[1:]}
        self.places = dict(_places(named, self._first.weight, of_norm))
        self.moments = self._lay_out(named, decay)
        self._leaves = {
            name: place.of(self._row(name in of_norm)).detach().requires_grad_() for name, place in self.places.items()
        }
        ends = [place.end for name, place in self.places.items() if name not in of_norm]
        self._count = len(ends)
        self.parts = [size for size in (max(ends), len(self.moments.values) - max(ends)) if size]

    def _lay_out(self, named: dict[str, nn.Parameter], decay: float) -> Moments:
        """Move the parameters of the model into the row."""
        row = torch.zeros(max(place.end for place in self.places.values()), device=self._first.weight.device)
        for name, place in self.places.items():
            values, parameter = place.of(row), named[name]
            if parameter is self._first.weight:
                values = values[:, :9].unflatten(1, (1, 3, 3))
            values.copy_(parameter.detach())
            parameter.data = values
        copies = None if self._dtype == row.dtype else row.to(self._dtype)
        first, second = torch.zeros_like(row), torch.zeros_like(row)
        decaying = max(self.places[name].end for name, parameter in named.items() if parameter.dim() > 1)
        return Moments(row, first, second, copies, decaying, decay)

    def _row(self, of_norm: bool) -> Tensor:
        """Return the float32 row for BatchNorm, else the row in the precision of the network."""
        return self.moments.values if of_norm or self.moments.copies is None else self.moments.copies

    def backward(self, pixels: Tensor, labels: Tensor, losses: Tensor, batch: int) -> list[Tensor]:
        """Send the batch of this step forward and back, and write its images' losses to `losses` `(N,)`.

        `pixels` `(N, 28, 28)`, `labels` `(N,)` and `losses` are in the order of the epoch. Returns the gradient of all
        parameters in the order of their row, in its `parts`.
        """
        with torch.enable_grad():
            logits = self._forward(pixels, batch)
            by_logits = self._parts.cross_entropy(logits.detach(), labels, losses, self._step)
            end: Tensor = _End.apply(logits, by_logits)
        gradients = torch.autograd.grad(end, list(self._leaves.values()))
        flat = [(g.permute(0, 2, 3, 1) if g.dim() == 4 else g).flatten() for g in gradients]
        return [torch.cat(part) for part in (flat[: self._count], flat[self._count :]) if part]

    def _forward(self, pixels: Tensor, batch: int) -> Tensor:
        """Return the logits `(B, classes)`."""
        side = pixels.shape[1]
        x = self._parts.patches(pixels, batch, self._step, *self._standardise, self._dtype)
        for layer, *names in self._layers:
            weight, bias = (self._leaves.get(name) for name in names)
            match layer:
                case Activation():
                    x = self._parts.activate(x, weight, bias, layer, self._step)
                case nn.Flatten():
                    x = x.flatten(1)
                case nn.Conv2d() if layer is not self._first:
                    assert weight is not None
                    x = F.conv2d(x, weight, bias, padding=1)
                case _:  # Linear, or the first convolution, as a product of its patches
                    assert weight is not None
                    x = self._parts.linear(x, weight, bias)
                    if layer is self._first:
                        x = x.view(batch, side, side, -1).permute(0, 3, 1, 2)
        return x


class _End(torch.autograd.Function):
    """The end of a network, from which to go back with a gradient that is known.

    `torch.autograd.grad` with a given gradient would import torch's compiler and sympy to compare two shapes, which
    takes seconds.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, by_logits: Tensor) -> Tensor:
        ctx.save_for_backward(by_logits)
        return logits.new_zeros(())  # any number

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.saved_tensors, None


def _places(named: dict[str, nn.Parameter], first: Tensor, of_norm: set[str]) -> Iterator[tuple[str, Place]]:
    """Yield the places of weights and kernels, then of biases, then of BatchNorm's parameters."""
    begin = 0
    for name, parameter in sorted(named.items(), key=lambda item: (item[0] in of_norm, item[1].dim() <= 1)):
        shape = tuple(parameter.shape)
        if parameter is first:
            shape = (shape[0], PATCH)
        elif len(shape) == 4:
            shape = (shape[0], *shape[2:], shape[1])
        place = Place(begin, shape)
        yield name, place
        begin = place.end
