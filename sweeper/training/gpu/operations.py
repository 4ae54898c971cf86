"""The operations of a training step on a GPU, by torch: the slow reference of `launches.Kernels`.

A step reads its number from a tensor on the device; times `stride` that is the first image of its batch, in the order
of the epoch. Nothing is sent to the device for a step, so that its operations can be replayed as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.training.optimizer import BETAS, EPSILON

PATCH: Final = 16  # columns of a patch: 9 pixels, and zeros up to what tensor cores multiply


@dataclass(frozen=True)
class Masks:
    """The masks of a Dropout layer for an epoch, uint8 `(images, C)`: 0 at `rate`, else 1."""

    kept: Tensor
    rate: float

    @property
    def scale(self) -> float:
        """The factor for values that are kept."""
        return 1 / (1 - self.rate)


@dataclass(frozen=True)
class Norm:
    """A BatchNorm layer without its weight and bias."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float
    eps: float


@dataclass(frozen=True)
class Activation:
    """Dropout, BatchNorm, 2x2 max-pool, ReLU and Dropout, in this order; each may be absent."""

    before: Masks | None = None
    norm: Norm | None = None
    pool: bool = False
    relu: bool = False
    after: Masks | None = None


@dataclass(frozen=True)
class Step:
    """A step: its number, int64 `()`, counted from 0 in each epoch, and the number of images in a full batch."""

    number: Tensor
    stride: int

    def rows(self, batch: int) -> Tensor:
        """Return the indices of its images, `(B,)`, in the order of the epoch."""
        return self.number * self.stride + torch.arange(batch, device=self.number.device)


@dataclass(frozen=True)
class Moments:
    """All parameters with AdamW's moments, float32 `(P,)`; the first `decaying` decay by `decay`."""

    values: Tensor
    first: Tensor
    second: Tensor
    copies: Tensor | None  # the values in bf16
    decaying: int
    decay: float


class Plain:
    """The operations of a step, by torch."""

    def activate(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, what: Activation, step: Step) -> Tensor:
        """Apply `what` in training mode, differentiably, and move BatchNorm's running statistics.

        `x` is `(B, C, H, W)` in channels_last, or `(B, C)`; the result has the same layout.
        """
        if what.before is not None:
            x = x * _mask(x, what.before, step)
        if (norm := what.norm) is not None:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, norm.momentum, norm.eps)
        if what.pool:
            x = F.max_pool2d(x, 2)
        if what.relu:
            x = F.relu(x)
        return x if what.after is None else x * _mask(x, what.after, step)

    def patches(self, pixels: Tensor, batch: int, step: Step, scale: float, shift: float, dtype: torch.dtype) -> Tensor:
        """Return the rows `(B·28·28, PATCH)` that the first convolution multiplies.

        A row has the 3x3 pixels around a pixel of the batch, times `scale` minus `shift`, 0 beyond the image. `pixels`
        are uint8 `(N, 28, 28)`.
        """
        x = pixels.index_select(0, step.rows(batch)).to(_at_least_float32(dtype)).mul_(scale).sub_(shift)
        around = F.unfold(x.unsqueeze(1), 3, padding=1).transpose(1, 2).flatten(0, 1)  # (B·28·28, 9)
        return F.pad(around, (0, PATCH - 9)).to(dtype)

    def cross_entropy(self, logits: Tensor, labels: Tensor, losses: Tensor, step: Step) -> Tensor:
        """Return the gradient of the mean loss by `logits` `(B, classes)`, and write each image's loss to `losses`.

        `losses` `(N,)`, in nats, and `labels`, int64 `(N,)`, are in the order of the epoch.
        """
        rows = step.rows(len(logits))
        label = labels.index_select(0, rows)
        likelihoods = logits.to(_at_least_float32(logits.dtype)).log_softmax(1)
        losses.index_copy_(0, rows, -likelihoods.gather(1, label[:, None])[:, 0])
        return likelihoods.exp_().sub_(F.one_hot(label, logits.shape[1])).div_(len(logits)).to(logits.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute `F.linear`, differentiably, for a matrix `x`."""
        return F.linear(x, weight, bias)

    def adamw(
        self, moments: Moments, gradients: Sequence[Tensor], rates: Tensor, corrections: Tensor, squares: Tensor,
        step: Step,
    ) -> None:  # fmt: skip
        """Take one step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) in place.

        `gradients` are those of all parameters in their order, in parts of one precision each. `rates` `(steps,)` and
        `corrections` `(steps, 2)`, 1 - β₁ᵗ and √(1 - β₂ᵗ), are read at the step's number; sums of squared gradients are
        written there to `squares` `(steps, blocks)`.
        """
        number, gradient = step.number.view(1), torch.cat([part.to(moments.values.dtype) for part in gradients])
        rate = rates.index_select(0, number)
        first, second = corrections.index_select(0, number)[0]
        squares.index_copy_(0, number, gradient.square().sum().view(1, 1))
        moments.values[: moments.decaying].mul_(1 - rate * moments.decay)
        moments.first.lerp_(gradient, 1 - BETAS[0])
        moments.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (moments.second.sqrt() / second).add_(EPSILON)
        moments.values.addcdiv_(moments.first * (-rate / first), spread)
        if moments.copies is not None:
            moments.copies.copy_(moments.values)

    def blocks(self, parts: Sequence[int]) -> int:
        """Return the number of sums of squared gradients for parts of so many parameters."""
        return 1


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _mask(x: Tensor, masks: Masks, step: Step) -> Tensor:
    mask = masks.kept.index_select(0, step.rows(len(x))).to(x.dtype) * masks.scale
    return mask[:, :, None, None] if x.dim() == 4 else mask
