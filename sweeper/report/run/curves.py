"""The figure of one run: accuracy and loss by epoch. The same epochs give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from sweeper.report.figure import (
    BLUE,
    INK,
    ORANGE,
    SOFT_INK,
    Array,
    add_note,
    as_png,
    backing,
    decorate,
    is_room_above,
    limits,
    new_figure,
    notice,
    percent,
    percent_tick,
    plain_tick,
    round_ticks,
    whole_numbers,
)

NOTE_WIDTH: Final = 0.3  # of an axis of `curves`: the note about the best epoch


def curves(epochs: Sequence[Mapping[str, float]], title: str) -> bytes:
    """Draw accuracy and loss of one run by epoch, on training and on validation images.

    Args:
        epochs: each with `epoch` and, as MLflow names them, `train/accuracy`, `val/accuracy` (in [0, 1]),
            `train/loss` and `val/loss` (nats).
        title: the heading.

    Returns:
        A PNG image.
    """
    rows = sorted(epochs, key=lambda row: row["epoch"])
    if not rows:
        return notice(title, "No epoch has finished yet.")
    best = best_epoch(rows)
    figure = new_figure(title, _curves_summary(rows, best))
    left, right = figure.subplots(1, 2)
    _draw_curves(left, rows, "accuracy", best)
    _draw_curves(right, rows, "loss", best)
    return as_png(figure)


def best_epoch(rows: Sequence[Mapping[str, float]]) -> int | None:
    """Return the index of the highest validation accuracy, ties by loss; None if none is finite."""
    finite = [i for i, row in enumerate(rows) if math.isfinite(row["val/accuracy"])]
    return max(finite, key=lambda i: (rows[i]["val/accuracy"], -rows[i]["val/loss"]), default=None)


def apart(first: float, second: float, least: float) -> tuple[float, float]:
    """Move both away from their middle, in their order, until they are `least` apart."""
    if abs(first - second) >= least:
        return first, second
    middle, half = (first + second) / 2, math.copysign(least / 2, first - second)
    return middle + half, middle - half


def _curves_summary(rows: Sequence[Mapping[str, float]], best: int | None) -> str:
    if best is None:
        return "No epoch has a finite validation accuracy."
    row = rows[best]
    gap = 100 * (row["train/accuracy"] - row["val/accuracy"])
    return (
        f"Best validation accuracy {percent(row['val/accuracy'])} at epoch {row['epoch']:.0f} of "
        f"{rows[-1]['epoch']:.0f}; training is {abs(gap):.2f} points {'above' if gap >= 0 else 'below'} it there."
    )


def _draw_curves(axes: Axes, rows: Sequence[Mapping[str, float]], metric: str, best: int | None) -> None:
    epochs = np.array([row["epoch"] for row in rows])
    train, val = (np.array([row[f"{split}/{metric}"] for row in rows]) for split in ("train", "val"))
    is_accuracy = metric == "accuracy"
    decorate(axes, "Accuracy" if is_accuracy else "Loss (negative log-likelihood, nats)", "both")
    round_ticks(axes.yaxis, percent_tick if is_accuracy else plain_tick)
    axes.set_ylim(*limits([*train, *val], margin=0.06 if len(rows) > 1 else 0.5))
    whole_numbers(axes, "epoch", epochs[0], epochs[-1])
    axes.fill_between(epochs, train, val, color=SOFT_INK, alpha=0.1, linewidth=0)
    marker = "o" if len(rows) <= 30 else ""
    for values, color in ((train, ORANGE), (val, BLUE)):
        axes.plot(epochs, values, color=color, linewidth=1.8, marker=marker, markersize=3.6, zorder=3)
    _label_ends(axes, epochs[-1], train, val)
    if best is not None:
        value = percent(val[best]) if is_accuracy else f"{val[best]:.3f}"
        _mark_best_epoch(axes, epochs, train, val, best, value)


def _label_ends(axes: Axes, last: float, train: Array, val: Array) -> None:
    """Write the names of the two curves at their right ends."""
    ends = [values[np.isfinite(values)][-1:] for values in (train, val)]
    if not all(len(end) for end in ends):
        return
    low, high = axes.get_ylim()
    heights = apart(float(ends[0][0]), float(ends[1][0]), 0.06 * (high - low))
    for name, color, height in zip(("train", "validation"), ("#9C6A00", BLUE), heights, strict=True):
        add_note(axes, name, (last, height), (10, 0), color=color, fontweight="bold")


def _mark_best_epoch(axes: Axes, epochs: Array, train: Array, val: Array, best: int, value: str) -> None:
    """Mark the best epoch with a ring, a dashed line, and its value where there is room."""
    x = epochs[best]
    axes.axvline(x, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
    axes.plot([x], [val[best]], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.5,
              zorder=5)  # fmt: skip
    if len(epochs) == 1:
        return  # the heading says it all
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ha, side = ("right", -1) if x >= (left + right) / 2 else ("left", 1)
    beside = (epochs - x) * side
    near = (beside >= 0) & (beside < NOTE_WIDTH * (right - left))
    y, va = (0.97, "top") if is_room_above([*train[near], *val[near]], low, high) else (0.03, "bottom")
    add_note(axes, f"best epoch {x:.0f}\n{value}", (x, y), (7 * side, 0), ("data", "axes fraction"), ha=ha, va=va,
          linespacing=1.4, bbox=backing())  # fmt: skip
