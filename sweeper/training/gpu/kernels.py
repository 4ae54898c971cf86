"""The Triton kernels that `launches` launches.

Images are in channels_last: a tensor `(B, C, H, W)` is a matrix of B·H·W rows and C columns. Sums have a fixed order. A
mask is read if its `drops_…` is not 0, so that one kernel serves all placements. Kernels are not specialised for
sizes that happen to be 1 or a multiple of 16.
"""

# mypy: ignore-errors

from __future__ import annotations

import os
from typing import Final

import triton
import triton.language as tl

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # the default; Triton 3.9 warns that it will change

SIZES: Final = (
    "rows", "area", "part_rows", "height", "width", "out_height", "out_width", "stride", "count", "side", "decaying",
    "first_block", "drops_before", "drops_after",
)  # fmt: skip


@triton.jit
def _dropped(v, mask, image, channels, columns, ok, scale, TYPE: tl.constexpr):
    """Return `v` times 0 or `scale`, in the precision of the tensors."""
    kept = tl.load(mask + image[:, None] * channels + columns[None, :], mask=ok, other=0)
    return tl.where(kept != 0, v * scale, 0.0).to(TYPE).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def statistics_kernel(
    x, before, step, stride, parts, rows, area, channels, part_rows, scale_before, drops_before,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write each column's mean and sum of squared distances from it, in one part of the rows (Chan et al. 1979)."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = part * part_rows
    end = tl.minimum(begin + part_rows, rows)
    first_image = tl.load(step) * stride
    mean = tl.zeros((BLOCK_C,), tl.float32)
    squares = tl.zeros((BLOCK_C,), tl.float32)
    count = 0.0
    for first in range(begin, end, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        ok = (row < end)[:, None] & (columns < channels)[None, :]
        v = tl.load(x + row[:, None] * channels + columns[None, :], mask=ok, other=0.0).to(tl.float32)
        if drops_before:
            v = _dropped(v, before, first_image + row // area, channels, columns, ok, scale_before, x.dtype.element_ty)
        here = tl.minimum(end - first, BLOCK_M).to(tl.float32)
        its = tl.sum(v, 0) / here
        apart = tl.where(ok, v - its[None, :], 0.0)
        delta, total = its - mean, count + here
        mean += delta * (here / total)
        squares += tl.sum(apart * apart, 0) + delta * delta * (count * here / total)
        count = total
    tl.store(parts + part * channels + columns, mean, mask=columns < channels)
    tl.store(parts + (tl.num_programs(0) + part) * channels + columns, squares, mask=columns < channels)


@triton.jit(do_not_specialize=SIZES)
def join_statistics_kernel(
    parts, statistics, running_mean, running_var, rows, channels, part_rows, count, momentum, eps,
    PARTS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Join the parts to the mean and inverse standard deviation, and move the running statistics."""
    columns = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.arange(0, PARTS)
    ok = (part < count)[:, None] & (columns < channels)[None, :]
    at = part[:, None] * channels + columns[None, :]
    means = tl.load(parts + at, mask=ok, other=0.0)
    squares = tl.load(parts + count * channels + at, mask=ok, other=0.0)
    weight = tl.minimum(tl.maximum(rows - part * part_rows, 0), part_rows).to(tl.float32)
    mean = tl.sum(means * weight[:, None], 0) / rows
    apart = means - mean[None, :]
    squared = tl.sum(squares + tl.where(ok, apart * apart, 0.0) * weight[:, None], 0)
    here = columns < channels
    tl.store(statistics + columns, mean, mask=here)
    tl.store(statistics + channels + columns, 1.0 / tl.sqrt(squared / rows + eps), mask=here)
    old_mean = tl.load(running_mean + columns, mask=here, other=0.0)
    old_var = tl.load(running_var + columns, mask=here, other=0.0)
    tl.store(running_mean + columns, old_mean + momentum * (mean - old_mean), mask=here)
    tl.store(running_var + columns, old_var + momentum * (squared / (rows - 1) - old_var), mask=here)


@triton.jit
def _value(
    x, row, columns, ok, channels, before, image, scale_before, drops_before, mean, slope, bias,
    NORM: tl.constexpr,
):  # fmt: skip
    """Return one pixel of each window after Dropout and BatchNorm."""
    kind: tl.constexpr = x.dtype.element_ty
    v = tl.load(x + row[:, None] * channels + columns[None, :], mask=ok, other=0.0).to(tl.float32)
    if drops_before:
        v = _dropped(v, before, image, channels, columns, ok, scale_before, kind)
    if NORM:
        v = ((v - mean[None, :]) * slope[None, :] + bias[None, :]).to(kind).to(tl.float32)
    return v


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    x, before, after, step, stride, statistics, weight, bias, out, places, rows, channels, height, width, out_height,
    out_width, scale_before, scale_after, drops_before, drops_after, NORM: tl.constexpr, POOL: tl.constexpr,
    RELU: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Apply an activation, and write which of the four pixels a value came from: 4 if the ReLU cut it off."""
    kind: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = (row < rows)[:, None] & (columns < channels)[None, :]
    here = columns < channels
    image = row // (out_height * out_width)
    drawn = tl.load(step) * stride + image
    mean = tl.zeros((BLOCK_C,), tl.float32)
    slope = mean
    shift = mean
    if NORM:
        mean = tl.load(statistics + columns, mask=here, other=0.0)
        slope = tl.load(statistics + channels + columns, mask=here, other=0.0) * tl.load(
            weight + columns, mask=here, other=0.0
        )
        shift = tl.load(bias + columns, mask=here, other=0.0)
    if POOL:
        y = (row // out_width) % out_height
        source = (image * height + 2 * y) * width + 2 * (row % out_width)
        v = _value(
            x, source, columns, ok, channels, before, drawn, scale_before, drops_before, mean, slope, shift, NORM
        )
        place = tl.zeros((BLOCK_M, BLOCK_C), tl.int32)
        for which in tl.static_range(1, 4):
            other = _value(
                x, source + (which // 2) * width + which % 2, columns, ok, channels, before, drawn, scale_before,
                drops_before, mean, slope, shift, NORM,
            )  # fmt: skip
            larger = (other > v) | (other != other)
            v = tl.where(larger, other, v)
            place = tl.where(larger, which, place)
    else:
        v = _value(x, row, columns, ok, channels, before, drawn, scale_before, drops_before, mean, slope, shift, NORM)
        place = tl.zeros((BLOCK_M, BLOCK_C), tl.int32)
    if RELU:
        cut = v <= 0
        v = tl.where(cut, 0.0, v)
        place = tl.where(cut, 4, place)
    if drops_after:
        v = _dropped(v, after, drawn, channels, columns, ok, scale_after, kind)
    at = row[:, None] * channels + columns[None, :]
    tl.store(out + at, v.to(kind), mask=ok)
    if POOL or RELU:
        tl.store(places + at, place.to(tl.uint8), mask=ok)


@triton.jit(do_not_specialize=SIZES)
def sums_kernel(
    x, gradient, before, after, step, stride, statistics, places, parts, rows, channels, height, width, out_height,
    out_width, part_rows, scale_before, scale_after, drops_before, drops_after, POOL: tl.constexpr,
    PLACES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum the gradient behind BatchNorm, alone and times the normalised values, in one part of the output rows."""
    kind: tl.constexpr = x.dtype.element_ty
    part = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = columns < channels
    begin = part * part_rows
    end = tl.minimum(begin + part_rows, rows)
    first_image = tl.load(step) * stride
    mean = tl.load(statistics + columns, mask=here, other=0.0)
    inverse = tl.load(statistics + channels + columns, mask=here, other=0.0)
    alone = tl.zeros((BLOCK_C,), tl.float32)
    times = tl.zeros((BLOCK_C,), tl.float32)
    for first in range(begin, end, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        ok = (row < end)[:, None] & here[None, :]
        at = row[:, None] * channels + columns[None, :]
        image = row // (out_height * out_width)
        g = tl.load(gradient + at, mask=ok, other=0.0).to(tl.float32)
        if drops_after:
            g = _dropped(g, after, first_image + image, channels, columns, ok, scale_after, kind)
        source = row[:, None] + tl.zeros((BLOCK_M, BLOCK_C), tl.int32)
        if PLACES:
            place = tl.load(places + at, mask=ok, other=4).to(tl.int32)
            g = tl.where(place < 4, g, 0.0)
            if POOL:
                y = (row // out_width) % out_height
                corner = (image * height + 2 * y) * width + 2 * (row % out_width)
                source = corner[:, None] + tl.where(place < 4, (place // 2) * width + place % 2, 0)
        v = tl.load(x + source * channels + columns[None, :], mask=ok, other=0.0).to(tl.float32)
        if drops_before:
            v = _dropped(v, before, first_image + image, channels, columns, ok, scale_before, kind)
        alone += tl.sum(g, 0)
        times += tl.sum(tl.where(ok, g * (v - mean[None, :]) * inverse[None, :], 0.0), 0)
    tl.store(parts + part * channels + columns, alone, mask=here)
    tl.store(parts + (tl.num_programs(0) + part) * channels + columns, times, mask=here)


@triton.jit(do_not_specialize=SIZES)
def join_sums_kernel(parts, sums, channels, count, PARTS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Join the parts to the sums."""
    columns = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.arange(0, PARTS)
    ok = (part < count)[:, None] & (columns < channels)[None, :]
    at = part[:, None] * channels + columns[None, :]
    alone = tl.sum(tl.load(parts + at, mask=ok, other=0.0), 0)
    times = tl.sum(tl.load(parts + count * channels + at, mask=ok, other=0.0), 0)
    tl.store(sums + columns, alone, mask=columns < channels)
    tl.store(sums + channels + columns, times, mask=columns < channels)


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    x, gradient, before, after, step, stride, statistics, weight, sums, places, out, rows, channels, height, width,
    out_height, out_width, scale_before, scale_after, drops_before, drops_after, NORM: tl.constexpr, POOL: tl.constexpr,
    PLACES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient by the input; by BatchNorm's input it is w/σ · (dy - mean(dy) - x̂ · mean(dy · x̂))."""
    kind: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = columns < channels
    ok = (row < rows)[:, None] & here[None, :]
    image = row // (height * width)
    drawn = tl.load(step) * stride + image
    seen = ok
    target = row
    slot = row * 0
    if POOL:
        y = (row // width) % height
        z = row % width
        seen = ok & ((y // 2 < out_height) & (z // 2 < out_width))[:, None]
        target = (image * out_height + y // 2) * out_width + z // 2
        slot = (y % 2) * 2 + z % 2
    at = target[:, None] * channels + columns[None, :]
    g = tl.load(gradient + at, mask=seen, other=0.0).to(tl.float32)
    if drops_after:
        g = _dropped(g, after, drawn, channels, columns, seen, scale_after, kind)
    if PLACES:
        place = tl.load(places + at, mask=seen, other=4).to(tl.int32)
        g = tl.where(place == slot[:, None], g, 0.0)
    source = row[:, None] * channels + columns[None, :]
    if NORM:
        mean = tl.load(statistics + columns, mask=here, other=0.0)
        inverse = tl.load(statistics + channels + columns, mask=here, other=0.0)
        v = tl.load(x + source, mask=ok, other=0.0).to(tl.float32)
        if drops_before:
            v = _dropped(v, before, drawn, channels, columns, ok, scale_before, kind)
        alone = tl.load(sums + columns, mask=here, other=0.0) / rows
        times = tl.load(sums + channels + columns, mask=here, other=0.0) / rows
        slope = inverse * tl.load(weight + columns, mask=here, other=0.0)
        g = slope[None, :] * (g - alone[None, :] - (v - mean[None, :]) * inverse[None, :] * times[None, :])
    if drops_before:
        g = _dropped(g.to(kind).to(tl.float32), before, drawn, channels, columns, ok, scale_before, kind)
    tl.store(out + source, g.to(kind), mask=ok)


@triton.jit(do_not_specialize=SIZES)
def patches_kernel(
    pixels, step, stride, out, rows, side, scale, shift, BLOCK_M: tl.constexpr, PATCH: tl.constexpr
):  # fmt: skip
    """Write for each pixel the 3x3 pixels around it, standardised; 0 beyond the image."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, PATCH)
    image = tl.load(step) * stride + row // (side * side)
    y = ((row // side) % side)[:, None] + column[None, :] // 3 - 1
    z = (row % side)[:, None] + column[None, :] % 3 - 1
    ok = (row < rows)[:, None] & (column < 9)[None, :] & (y >= 0) & (y < side) & (z >= 0) & (z < side)
    v = tl.load(pixels + (image[:, None] * side + y) * side + z, mask=ok, other=0).to(tl.float32)
    v = tl.where(ok, v * scale - shift, 0.0)
    tl.store(out + row[:, None] * PATCH + column[None, :], v.to(out.dtype.element_ty), mask=(row < rows)[:, None])


@triton.jit(do_not_specialize=SIZES)
def cross_entropy_kernel(
    logits, labels, step, stride, losses, gradient, rows, classes, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Write the negative log-likelihood of each image's label, and the gradient of their mean."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_C)
    ok = (row < rows)[:, None] & (column < classes)[None, :]
    at = row[:, None] * classes + column[None, :]
    image = tl.load(step) * stride + row
    v = tl.load(logits + at, mask=ok, other=float("-inf")).to(tl.float32)
    v = tl.where((row < rows)[:, None], v, 0.0)
    label = tl.load(labels + image, mask=row < rows, other=0)
    v = v - tl.max(v, 1)[:, None]
    exponents = tl.exp(v)
    total = tl.sum(exponents, 1)
    chosen = column[None, :] == label[:, None]
    tl.store(losses + image, tl.log(total) - tl.sum(tl.where(chosen, v, 0.0), 1), mask=row < rows)
    g = (exponents / total[:, None] - chosen.to(tl.float32)) / rows
    tl.store(gradient + at, g.to(gradient.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=SIZES)
def adamw_kernel(
    values, gradient, first, second, copies, squares, step, rates, corrections, count, decaying, first_block, blocks,
    decay, beta_1, beta_2, epsilon, COPIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take a step for a block of parameters; those before `decaying` decay."""
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    ok = at < count
    number = tl.load(step)
    rate = tl.load(rates + number)
    v = tl.load(values + at, mask=ok, other=0.0)
    g = tl.load(gradient + at, mask=ok, other=0.0).to(tl.float32)
    m = tl.load(first + at, mask=ok, other=0.0)
    q = tl.load(second + at, mask=ok, other=0.0)
    v = tl.where(at < decaying, v - rate * decay * v, v)
    m = m + (1 - beta_1) * (g - m)
    q = beta_2 * q + (1 - beta_2) * g * g
    spread = tl.sqrt(q) / tl.load(corrections + 2 * number + 1) + epsilon
    v = v - rate / tl.load(corrections + 2 * number) * m / spread
    tl.store(values + at, v, mask=ok)
    tl.store(first + at, m, mask=ok)
    tl.store(second + at, q, mask=ok)
    tl.store(squares + number * blocks + first_block + block, tl.sum(tl.where(ok, g * g, 0.0), 0))
    if COPIES:
        tl.store(copies + at, v.to(copies.dtype.element_ty), mask=ok)
