"""The operations of a training step by Triton kernels, in few passes over memory.

Convolutions and matrix products stay with cuDNN and cuBLAS. An activation with BatchNorm takes three kernels forward
and three back, one without takes one each way: statistics are computed for parts of the rows, to occupy all of a GPU,
and then joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from sweeper.training.gpu.kernels import (
    adamw_kernel,
    backward_kernel,
    cross_entropy_kernel,
    forward_kernel,
    join_statistics_kernel,
    join_sums_kernel,
    patches_kernel,
    statistics_kernel,
    sums_kernel,
)
from sweeper.training.gpu.operations import PATCH, Activation, Moments, Plain, Step
from sweeper.training.optimizer import BETAS, EPSILON

PARTS: Final = 512  # of the rows, at most
JOINED: Final = 16  # columns whose parts one program joins
TILE: Final = 4096  # values that a program holds at a time
COLUMNS: Final = 32  # of a tile, at most: the same for most layers, so that kernels are compiled once
ADAMW_BLOCK: Final = 1024


class Kernels(Plain):
    """The operations of a step, by kernels."""

    def activate(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, what: Activation, step: Step) -> Tensor:
        """See `Plain`."""
        result: Tensor = _Activate.apply(x, weight, bias, what, step)
        return result

    def patches(self, pixels: Tensor, batch: int, step: Step, scale: float, shift: float, dtype: torch.dtype) -> Tensor:
        """See `Plain`."""
        side = pixels.shape[1]
        rows = batch * side * side
        out = torch.empty(rows, PATCH, dtype=dtype, device=pixels.device)
        patches_kernel[(triton.cdiv(rows, TILE // PATCH),)](
            pixels, step.number, step.stride, out, rows, side, scale, shift, BLOCK_M=TILE // PATCH, PATCH=PATCH
        )
        return out

    def cross_entropy(self, logits: Tensor, labels: Tensor, losses: Tensor, step: Step) -> Tensor:
        """See `Plain`."""
        gradient = torch.empty_like(logits)
        rows, classes = logits.shape
        cross_entropy_kernel[(triton.cdiv(rows, 64),)](
            logits, labels, step.number, step.stride, losses, gradient, rows, classes, BLOCK_M=64,
            BLOCK_C=triton.next_power_of_2(classes),
        )  # fmt: skip
        return gradient

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Plain`. The gradient by the bias is a product: torch's sum of few long rows is slow."""
        result: Tensor = F.linear(x, weight) if bias is None else _Linear.apply(x, weight, bias)
        return result

    def adamw(
        self, moments: Moments, gradients: Sequence[Tensor], rates: Tensor, corrections: Tensor, squares: Tensor,
        step: Step,
    ) -> None:  # fmt: skip
        """See `Plain`."""
        begin = block = 0
        for gradient in gradients:
            count, here = len(gradient), slice(begin, begin + len(gradient))
            copies = None if moments.copies is None else moments.copies[here]
            blocks = int(triton.cdiv(count, ADAMW_BLOCK))
            adamw_kernel[(blocks,)](
                moments.values[here], gradient, moments.first[here], moments.second[here], copies, squares, step.number,
                rates, corrections, count, max(0, moments.decaying - begin), block, squares.shape[1], moments.decay,
                *BETAS, EPSILON, COPIES=copies is not None, BLOCK=ADAMW_BLOCK,
            )  # fmt: skip
            begin, block = begin + count, block + blocks

    def blocks(self, parts: Sequence[int]) -> int:
        """See `Plain`."""
        return sum(int(triton.cdiv(part, ADAMW_BLOCK)) for part in parts)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0]
        by_x = gradient @ weight if ctx.needs_input_grad[0] else None
        by_bias = gradient.new_ones(1, len(gradient)) @ gradient
        return by_x, gradient.t() @ x, by_bias[0]


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, what: Activation, step: Step
    ) -> Tensor:
        statistics = None if what.norm is None else _statistics(x, what, step)
        out = _empty(x, what)
        places = torch.empty_like(out, dtype=torch.uint8) if what.pool or what.relu else None
        size, drops = _Size.of(out, TILE // (4 if what.pool else 1)), _Drops.of(what, x.device)
        forward_kernel[size.grid](
            x, *drops.kept, step.number, step.stride, statistics, weight, bias, out, places, size.rows, size.channels,
            *_sides(x), *_sides(out), *drops.numbers, NORM=statistics is not None, POOL=what.pool, RELU=what.relu,
            **size.blocks,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, statistics, places)
        ctx.what, ctx.step = what, step
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics, places = ctx.saved_tensors
        what, step, drops = ctx.what, ctx.step, _Drops.of(ctx.what, x.device)
        gradient = gradients[0]
        gradient = gradient.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else gradient.contiguous()
        flags = {"POOL": what.pool, "PLACES": places is not None}
        sums = None
        if statistics is not None:
            size = _Size.of(gradient, TILE)
            count, part_rows = size.parts()
            parts = torch.empty(2, count, size.channels, device=x.device)
            sums_kernel[(count, size.grid[1])](
                x, gradient, *drops.kept, step.number, step.stride, statistics, places, parts, size.rows, size.channels,
                *_sides(x), *_sides(gradient), part_rows, *drops.numbers, **flags, **size.blocks,
            )  # fmt: skip
            sums = torch.empty(2, size.channels, device=x.device)
            join_sums_kernel[(triton.cdiv(size.channels, JOINED),)](
                parts, sums, size.channels, count, PARTS=PARTS, BLOCK_C=JOINED, num_warps=8
            )
        size, by_x = _Size.of(x, TILE), torch.empty_like(x)
        backward_kernel[size.grid](
            x, gradient, *drops.kept, step.number, step.stride, statistics, weight, sums, places, by_x, size.rows,
            size.channels, *_sides(x), *_sides(gradient), *drops.numbers, **flags, NORM=sums is not None, **size.blocks,
        )  # fmt: skip
        by_weight, by_bias = (None, None) if sums is None else (sums[1], sums[0])
        return by_x, by_weight, by_bias, None, None


def _statistics(x: Tensor, what: Activation, step: Step) -> Tensor:
    """Return the mean and inverse standard deviation of the batch, `(2, C)`, and move the running statistics."""
    norm, drops = what.norm, _Drops.of(what, x.device)
    assert norm is not None
    size = _Size.of(x, TILE)
    count, part_rows = size.parts()
    parts = torch.empty(2, count, size.channels, device=x.device)
    height, width = _sides(x)
    statistics_kernel[(count, size.grid[1])](
        x, drops.kept[0], step.number, step.stride, parts, size.rows, height * width, size.channels, part_rows,
        drops.numbers[0], drops.numbers[2], **size.blocks,
    )  # fmt: skip
    statistics = torch.empty(2, size.channels, device=x.device)
    join_statistics_kernel[(triton.cdiv(size.channels, JOINED),)](
        parts, statistics, norm.running_mean, norm.running_var, size.rows, size.channels, part_rows, count,
        norm.momentum, norm.eps, PARTS=PARTS, BLOCK_C=JOINED, num_warps=8,
    )  # fmt: skip
    return statistics


class _Drops(NamedTuple):
    """The Dropouts before and after, as a kernel takes them.

    An absent one has a mask that is never read, so that one compiled kernel serves all placements.
    """

    kept: tuple[Tensor, Tensor]
    numbers: tuple[float, float, int, int]  # their scales, and 1 if they are present

    @classmethod
    def of(cls, what: Activation, device: torch.device) -> _Drops:
        before, after = what.before, what.after
        kept = before.kept if before else _no_mask(device), after.kept if after else _no_mask(device)
        scales = before.scale if before else 0.0, after.scale if after else 0.0
        return cls(kept, (*scales, int(before is not None), int(after is not None)))


@cache
def _no_mask(device: torch.device) -> Tensor:
    return torch.zeros(16, dtype=torch.uint8, device=device)


@dataclass(frozen=True)
class _Size:
    """The size of a tensor as a matrix, and of the blocks that programs take."""

    rows: int
    channels: int
    blocks: dict[str, int]

    @classmethod
    def of(cls, x: Tensor, tile: int) -> _Size:
        channels = x.shape[1]
        columns = min(COLUMNS, triton.next_power_of_2(channels))
        return cls(x.numel() // channels, channels, {"BLOCK_M": tile // columns, "BLOCK_C": columns})

    @property
    def grid(self) -> tuple[int, int]:
        return triton.cdiv(self.rows, self.blocks["BLOCK_M"]), triton.cdiv(self.channels, self.blocks["BLOCK_C"])

    def parts(self) -> tuple[int, int]:
        """Return the number of parts of the rows, and the rows of a part."""
        part_rows = triton.cdiv(self.grid[0], PARTS) * self.blocks["BLOCK_M"]
        return triton.cdiv(self.rows, part_rows), part_rows


def _empty(x: Tensor, what: Activation) -> Tensor:
    if not what.pool:
        return torch.empty_like(x)
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height // 2, width // 2, channels).permute(0, 3, 1, 2)


def _sides(x: Tensor) -> tuple[int, int]:
    return (x.shape[2], x.shape[3]) if x.dim() == 4 else (1, 1)
