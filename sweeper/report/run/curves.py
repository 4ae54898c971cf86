"""The figure of one run: accuracy and loss by epoch. The same epochs give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.report.figure import (
    BLUE,
    INK,
    ORANGE,
    SOFT_INK,
    add_legend,
    as_png,
    decorate,
    limits,
    new_figure,
    notice,
    percent,
    percent_tick,
    plain_tick,
    round_ticks,
    whole_numbers,
)

Epoch: TypeAlias = Mapping[str, float]


def curves(epochs: Sequence[Epoch], title: str) -> bytes:
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
    figure = new_figure(title, _summary(best, rows[-1]["epoch"]))
    left, right = figure.subplots(1, 2)
    for axes, metric in ((left, "accuracy"), (right, "loss")):
        _draw_curves(axes, rows, metric, best)
    add_legend(
        figure,
        (Line2D([], [], color=ORANGE, linewidth=1.8), "train", True),
        (Line2D([], [], color=BLUE, linewidth=1.8), "validation", True),
        (Line2D([], [], color=INK, linewidth=1, linestyle=(0, (2, 2))), "best epoch", best is not None),
    )
    return as_png(figure)


def best_epoch(rows: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch of the highest validation accuracy, ties by loss; None if none is finite."""
    finite = [row for row in rows if math.isfinite(row["val/accuracy"])]
    return max(finite, key=lambda row: (row["val/accuracy"], -row["val/loss"]), default=None)


def _summary(best: Epoch | None, last: float) -> str:
    if best is None:
        return "No epoch has a finite validation accuracy."
    gap = 100 * (best["train/accuracy"] - best["val/accuracy"])
    return (
        f"Best epoch {best['epoch']:.0f} of {last:.0f}: validation {percent(best['val/accuracy'])}, loss "
        f"{best['val/loss']:.3f}; training {abs(gap):.2f} points {'higher' if gap >= 0 else 'lower'}."
    )


def _draw_curves(axes: Axes, rows: Sequence[Epoch], metric: str, best: Epoch | None) -> None:
    epochs = [row["epoch"] for row in rows]
    train, val = ([row[f"{split}/{metric}"] for row in rows] for split in ("train", "val"))
    is_accuracy = metric == "accuracy"
    decorate(axes, "Accuracy" if is_accuracy else "Loss (negative log-likelihood, nats)", "both")
    round_ticks(axes.yaxis, percent_tick if is_accuracy else plain_tick)
    axes.set_ylim(*limits([*train, *val], margin=0.06 if len(rows) > 1 else 0.5))
    whole_numbers(axes, "epoch", epochs[0], epochs[-1])
    axes.fill_between(epochs, train, val, color=SOFT_INK, alpha=0.1, linewidth=0)
    marker = "o" if len(rows) <= 30 else ""
    for values, color in ((train, ORANGE), (val, BLUE)):
        axes.plot(epochs, values, color=color, linewidth=1.8, marker=marker, markersize=3.6, zorder=3)
    if best is not None:
        axes.axvline(best["epoch"], color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
        axes.plot([best["epoch"]], [best[f"val/{metric}"]], "o", markersize=9, markerfacecolor="none",
                  markeredgecolor=INK, markeredgewidth=1.5, zorder=5)  # fmt: skip
