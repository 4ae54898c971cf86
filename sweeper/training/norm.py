"""BatchNorm of few channels, fast on a CPU.

With an image's channels side by side in memory (channels_last), torch computes BatchNorm with vectors of channels.
8 channels fill half of a vector of float32 and a quarter of one of bfloat16, and two threads are slower than one. Here
the channels of up to `FOLD` neighbouring pixels count as separate channels, whose statistics are then joined: several
times the speed, the same values up to rounding (docs/development/log.md).
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLD: Final = 16  # pixels, at most
FEWEST: Final = 4  # pixels that are worth folding; they divide the area of every narrow layer here
NARROW: Final = 8  # channels; with 16 or more torch's own layer is as fast


def batch_norm_2d(channels: int) -> nn.BatchNorm2d:
    """Return the fastest layer for this number of channels, with torch's defaults."""
    return NarrowBatchNorm2d(channels) if channels <= NARROW else nn.BatchNorm2d(channels)


class NarrowBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for few channels; on a GPU, in other memory layouts and when exported it is torch's own layer.

    Maps `(B, C, H, W)` to the same shape. Training mode normalises by the mean and biased variance of the batch, and
    keeps running averages (of the unbiased variance); eval mode by those (Ioffe and Szegedy 2015, arXiv 1502.03167).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch."""
        if torch.compiler.is_compiling():
            return super().forward(x)
        if self.training:
            self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        return narrow_batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )


def narrow_batch_norm(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, training: bool,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """Compute `F.batch_norm` for images `(B, C, H, W)`, folded if possible."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    if x.device.type != "cpu" or not last or _pixels_in_fold(x) < FEWEST:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return _unfold(_normalise(_fold(x), running_mean, running_var, weight, bias, eps), x)
    normalised: Tensor = _Normalised.apply(x, weight, bias, running_mean, running_var, momentum, eps)
    return normalised


class _Normalised(torch.autograd.Function):
    """BatchNorm in training mode: the C channels of a fold of pixels are fold·C channels."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float,
        eps: float,
    ) -> Tensor:  # fmt: skip
        """Also moves the running statistics by `momentum`."""
        folded, folds = _fold(x), (-1, x.shape[1])  # (M / fold, fold·C)
        unused = running_mean.new_zeros(folded.shape[1])  # sets the precision of the result
        means, variances = torch.batch_norm_update_stats(folded, unused, unused.clone(), 0.0)
        means, variances = means.view(folds), variances.view(folds)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        count = x.numel() // len(mean)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return _unfold(_normalise(folded, mean, variance, weight, bias, eps), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient by x is w/σ · (dy − mean(dy) − x̂ · mean(dy · x̂)): that of eval mode plus a line in x̂."""
        x, weight, mean, variance = ctx.saved_tensors
        gradient, folded = _fold(gradients[0].contiguous(memory_format=torch.channels_last)), _fold(x)
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, folded, *_repeat(folded, weight, mean, variance), None, None, False, ctx.eps, [True, True, True]
        )
        by_weight, by_bias = (folds.view(-1, len(mean)).sum(0) for folds in (by_weight, by_bias))
        scale = -weight * (variance + ctx.eps).rsqrt() / (x.numel() // len(mean))
        by_x += _normalise(folded, mean, variance, scale * by_weight, scale * by_bias, ctx.eps)
        return _unfold(by_x, x), by_weight, by_bias, None, None, None, None


def _pixels_in_fold(x: Tensor) -> int:
    return math.gcd(x.shape[0] * x.shape[2] * x.shape[3], FOLD)


def _fold(x: Tensor) -> Tensor:
    """Return `(B, C, H, W)` in channels_last as `(B·H·W / fold, fold·C)`, without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, _pixels_in_fold(x) * x.shape[1])


def _unfold(folded: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return folded.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _repeat(folded: Tensor, *of_channels: Tensor) -> list[Tensor]:
    """Repeat values `(C,)` once for every pixel of a fold."""
    return [values.repeat(folded.shape[1] // len(values)) for values in of_channels]


def _normalise(folded: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean, variance, weight, bias = _repeat(folded, mean, variance, weight, bias)
    return F.batch_norm(folded, mean, variance, weight, bias, training=False, eps=eps)
