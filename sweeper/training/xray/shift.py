"""The formulas of the X-ray: variances, the effect of Dropout, and the distance of two (docs/explanation/xray.md).

`(C,)` is one value per channel, `(K, C)` one per batch and channel; variances are unbiased, like BN's running variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shift(NamedTuple):
    """The distance of a variance r from m, over the channels in which both are above BN's eps.

    Below it BN scales by the eps instead of the variance, and a constant channel has no ratio.
    """

    ratio: float  # mean of max(r/m, m/r)
    signed: float  # mean of log(r/m)
    spread: tuple[float, float]  # 10 % and 90 % quantiles of max(r/m, m/r)
    left_out: int  # other channels


def shift(r: Tensor, m: Tensor, eps: float) -> Shift:
    """Compare the variances `r` and `m`, both `(C,)`, as Li et al. 2019 (arXiv 1801.05134); NaN if none is counted."""
    which = counted(r, m, eps)
    log = (r[which].double() / m[which].double()).log()
    if not len(log):
        return Shift(math.nan, math.nan, (math.nan, math.nan), len(r))
    ratio = log.abs().exp()
    low, high = ratio.quantile(torch.tensor([0.1, 0.9], dtype=ratio.dtype, device=ratio.device)).tolist()
    return Shift(ratio.mean().item(), log.mean().item(), (low, high), len(r) - len(log))


def counted(r: Tensor, m: Tensor, eps: float) -> Tensor:
    """Return the channels that have a ratio, as bool `(C,)`."""
    return (r > eps) & (m > eps) & r.isfinite() & m.isfinite()


def by_channel(x: Tensor) -> Tensor:
    """Return `(B, C)` or `(B, C, H, W)` as float `(n, C)`, without a copy of channels_last."""
    return x.float().movedim(1, -1).flatten(0, -2)


def moments(values: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the columns of `values` `(n, C)`; `near` `(C,)` is a guess of the means.

    Two sums are ten times as fast on a CPU as `torch.var_mean`; taken from `near`, they lose few digits.
    """
    values = values - near
    mean, square = values.mean(0), values.square().mean(0)
    return mean + near, (square - mean.square()).clamp(min=0) * (len(values) / max(1, len(values) - 1))


def dropped_variance(
    mean: Tensor, square: Tensor, image_square: Tensor, keep: float, images: int, values: int
) -> Tensor:
    """Return the expected batch variance of x, `(C,)`, after Dropout zeroed some of it and divided the rest by p.

    With c and v the mean and variance of x, the variance over all images is (c² + v)/p - c², for a mask a value and
    for a mask a channel. A batch of N images does not see the part of it that moves its own mean. With a mask a
    channel of an image, that part is ((c² + u)/p - c²)/N, with u the variance of an image's mean. In the head, with a
    value an image, u = v.

    Args:
        mean: c, `(C,)`.
        square: the mean of x², c² + v, `(C,)`.
        image_square: the mean over images of the square of an image's mean, c² + u, `(C,)`.
        keep: p.
        images: N.
        values: number of values of a channel in a batch.
    """
    hidden = (image_square / keep - mean.square()) / images
    return (square / keep - mean.square() - hidden) * (values / (values - 1))


def variation(variances: Tensor) -> Tensor:
    """Return the coefficient of variation over batches, `(C,)`, of `variances` `(K, C)`; NaN for one batch.

    The standard deviation of few values is too small on average. Division by c4 corrects it for normal values.
    """
    count = len(variances)
    if count < 2:
        return torch.full_like(variances[0], math.nan)
    c4 = math.sqrt(2 / (count - 1)) * math.exp(math.lgamma(count / 2) - math.lgamma((count - 1) / 2))
    return variances.std(0) / c4 / variances.mean(0)


def noise_floor(training: Tensor, evaluation: Tensor, momentum: float, batches: int) -> Tensor:
    """Return the expected max(r/m, m/r), `(C,)`, if r and m differ by the noise of batches alone.

    m is a running average that forgets with `momentum` a: its variance is a/(2 - a) of a batch's. r is a mean of
    `batches`. With s the deviation of log(r/m), the mean of exp|log(r/m)| is 2 exp(s²/2) Φ(s).

    Args:
        training: coefficient of variation of the batch variance in training mode, `(C,)`.
        evaluation: the same in eval mode.
        momentum: a.
        batches: number of batches for r.
    """
    s = (training.square() * momentum / (2 - momentum) + evaluation.square() / batches).sqrt()
    floor: Tensor = 2 * (s.square() / 2).exp() * torch.special.ndtr(s)
    return floor


def forgetting(layer: Any, calls: int) -> float:
    """Return the a of `noise_floor` for a BN layer that is called `calls` times in a batch.

    With momentum a, J calls forget 1 - (1 - a)^J. Without momentum m is the plain mean of T batches, whose variance is
    1/T of a batch's: that of a = 2/(T + 1).
    """
    if layer.momentum is None:
        return 2 / (1 + max(1.0, int(layer.num_batches_tracked) / calls))
    momentum: float = layer.momentum
    return momentum if calls == 1 else 1 - (1 - momentum) ** calls


def joined(variances: Sequence[Tensor], momentum: float | None) -> Tensor:
    """Return the mean of the variances `(C,)` of the calls of a BN layer in one batch, weighted as in m.

    With momentum a, each call has 1 - a of the weight of the next; without momentum, all have the same.
    """
    if len(variances) == 1:
        return variances[0]
    ahead = range(len(variances) - 1, -1, -1)  # calls after each
    weights = variances[0].new_tensor([(1 - (momentum or 0.0)) ** later for later in ahead])
    return (torch.stack(list(variances)) * weights[:, None]).sum(0) / weights.sum()


def mean_of(values: Tensor, which: Tensor) -> float:
    """Return the mean of the finite `values[which]`, both `(C,)`; NaN if there are none."""
    kept = values[which & values.isfinite()]
    return kept.mean().item() if len(kept) else math.nan
