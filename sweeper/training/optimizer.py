"""AdamW by torch's fused kernel, and the schedules of its learning rate.

`torch.optim.AdamW` takes the same steps, but its first one imports torch's compiler: 900 modules, 1.5 s and 230 MB in
each process that trains, for nothing that is used here.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from sweeper.core.config import RunConfig

BETAS: Final = (0.9, 0.999)  # torch's defaults, as is the epsilon
EPSILON: Final = 1e-8


class AdamW:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101); biases and BatchNorm's parameters do not decay."""

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self._parameters = list(model.parameters())
        self._groups = [
            _Group([p for p in self._parameters if p.dim() > 1], weight_decay),
            _Group([p for p in self._parameters if p.dim() <= 1], 0.0),
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step at the learning rate `lr`; every parameter must have a gradient."""
        for group in self._groups:
            group.step(lr)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self._parameters:
            parameter.grad = None


class _Group:
    """The parameters that share a weight decay, with the moments of their gradients."""

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float) -> None:
        self._parameters = parameters
        self._weight_decay = weight_decay
        self._first = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in parameters]
        self._second = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    def step(self, lr: float) -> None:
        gradients: list[Tensor] = [p.grad for p in self._parameters if p.grad is not None]
        assert len(gradients) == len(self._parameters), "every parameter takes part in the loss"
        adamw(
            list[Tensor](self._parameters), gradients, self._first, self._second, [], self._steps,
            fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=lr, weight_decay=self._weight_decay,
            eps=EPSILON, maximize=False,
        )  # fmt: skip


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """Return the learning rate at `step` of `steps`, counted from 0.

    cosine: half a cosine from lr to 0 (Loshchilov and Hutter 2016, arXiv 1608.03983).
    onecycle: a linear rise from lr/25 over the first 30 % of steps, then half a cosine to 0
    (after Smith and Topin 2017, arXiv 1708.07120).
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * step / steps)) / 2
    rise = 0.3 * steps
    if step < rise:
        return config.lr * (1 / 25 + (24 / 25) * step / rise)
    return config.lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
