"""A network whose parameters lie in one row of memory, for steps that are a few large operations.

`model.build_model` makes the model; here its weights, running statistics and layers take part in a step through
`operations`. The model sees what the steps do: its parameters become views of the row, so that it can be evaluated and
saved at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.core.images import MEAN, STD
from sweeper.training.gpu.layers import parse
from sweeper.training.gpu.operations import PATCH, Activation, Moments, Operations, Step


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies in the row, and its shape there: of a kernel `(out, 3, 3, in)`, of the first one
    `(out, PATCH)`."""

    begin: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first place behind it."""
        return self.begin + math.prod(self.shape)

    def of(self, row: Tensor) -> Tensor:
        """The parameter in a row, as a step takes it: a kernel is `(out, in, 3, 3)`."""
        values = row[self.begin : self.end].view(self.shape)
        return values.permute(0, 3, 1, 2) if len(self.shape) == 4 else values


class Network:
    """The layers of a model on its device, and how a batch goes through them and back.

    Attributes:
        model: the model, which goes on to be the same network.
        moments: the parameters, weights and kernels first, with what the optimizer keeps of them.
        rates: of each Dropout layer that drops anything.
        masks: what they keep, for all images of an epoch.

    Raises:
        ConfigError: the captured step does not have one of the layers.
    """

    def __init__(
        self, model: nn.Sequential, images: int, step: Step, dtype: torch.dtype, decay: float, parts: Operations
    ) -> None:
        self.model = model
        self._parts, self._step, self._dtype = parts, step, dtype
        layers = parse(model, images)
        self.masks, self.rates = layers.masks, layers.rates
        self._steps = layers.steps
        named = dict(model.named_parameters())
        self._first: nn.Conv2d = next(layer for layer in model if isinstance(layer, nn.Conv2d))
        of_norm = {name for layer in self._steps if isinstance(layer.what, Activation) for name in layer[1:]}
        self._places = dict(_places(named, self._first.weight, of_norm))
        self.moments = self._lay_out(named, decay)
        self._leaves = {
            name: place.of(self._row(name in of_norm)).detach().requires_grad_() for name, place in self._places.items()
        }
        ends = [place.end for name, place in self._places.items() if name not in of_norm]
        self._parts_at = max(ends), len(ends)

    def _lay_out(self, named: dict[str, nn.Parameter], decay: float) -> Moments:
        """Put the parameters into their row, where the model sees them from now on."""
        row = torch.zeros(max(place.end for place in self._places.values()), device=self._first.weight.device)
        for name, place in self._places.items():
            values, parameter = place.of(row), named[name]
            if parameter is self._first.weight:
                values = values[:, :9].unflatten(1, (1, 3, 3))
            values.copy_(parameter.detach())
            parameter.data = values
        copies = None if self._dtype == row.dtype else row.to(self._dtype)
        first, second = torch.zeros_like(row), torch.zeros_like(row)
        decaying = max(self._places[name].end for name, parameter in named.items() if parameter.dim() > 1)
        return Moments(row, first, second, copies, decaying, decay)

    @property
    def parts(self) -> list[int]:
        """How many parameters have their gradients in the precision of the network, and how many in float32."""
        return [size for size in (self._parts_at[0], len(self.moments.values) - self._parts_at[0]) if size]

    def _row(self, of_norm: bool) -> Tensor:
        """BatchNorm computes in float32, all else in the precision of the network."""
        return self.moments.values if of_norm or self.moments.copies is None else self.moments.copies

    def backward(self, pixels: Tensor, labels: Tensor, losses: Tensor, batch: int) -> list[Tensor]:
        """Send the batch of this step through the network and back; its images' losses go to their places in `losses`.

        `pixels` `(N, 28, 28)` and `labels` `(N,)` are in the order of the epoch. The gradient is that of all parameters
        in the order of their row, in its `parts`.
        """
        with torch.enable_grad():
            logits = self._forward(pixels, batch)
            by_logits = self._parts.cross_entropy(logits.detach(), labels, losses, self._step)
            end: Tensor = _End.apply(logits, by_logits)
        gradients = torch.autograd.grad(end, list(self._leaves.values()))
        flat = [(g.permute(0, 2, 3, 1) if g.dim() == 4 else g).flatten() for g in gradients]
        count = self._parts_at[1]
        return [torch.cat(part) for part in (flat[:count], flat[count:]) if part]

    def _forward(self, pixels: Tensor, batch: int) -> Tensor:
        """Logits `(B, 10)`."""
        x = self._parts.patches(pixels, batch, self._step, 1 / (255 * STD), MEAN / STD, self._dtype)
        for what, *names in self._steps:
            weight, bias = (self._leaves.get(name) for name in names)
            match what:
                case Activation():
                    x = self._parts.activate(x, weight, bias, what, self._step)
                case nn.Flatten():
                    x = x.flatten(1)
                case nn.Conv2d() if what is not self._first:
                    x = F.conv2d(x, _there(weight), bias, padding=1)
                case nn.Conv2d():
                    side = pixels.shape[1]
                    x = self._parts.linear(x, _there(weight), bias).view(batch, side, side, -1).permute(0, 3, 1, 2)
                case nn.Linear():
                    x = self._parts.linear(x, _there(weight), bias)
                case _:
                    raise AssertionError(f"no step for {what}")  # `parse` lets none through
        return x


class _End(torch.autograd.Function):
    """Where to go back from with a gradient that is known. `torch.autograd.grad`, if it were given the gradient, would
    import torch's compiler and sympy to compare two shapes, which takes seconds."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, by_logits: Tensor) -> Tensor:
        """A number that means nothing."""
        ctx.save_for_backward(by_logits)
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient by the logits."""
        return *ctx.saved_tensors, None


def _there(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight


def _places(named: dict[str, nn.Parameter], first: Tensor, of_norm: set[str]) -> Iterator[tuple[str, _Place]]:
    """Weights and kernels, then biases, then what BatchNorm has."""
    begin = 0
    for name, parameter in sorted(named.items(), key=lambda item: (item[0] in of_norm, item[1].dim() <= 1)):
        shape = tuple(parameter.shape)
        if parameter is first:
            shape = (shape[0], PATCH)
        elif len(shape) == 4:
            shape = (shape[0], *shape[2:], shape[1])
        place = _Place(begin, shape)
        yield name, place
        begin = place.end
