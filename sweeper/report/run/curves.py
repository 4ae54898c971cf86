"""The figures of a report: tuples in, PNG bytes out.

What is drawn is decided by small pure functions (`best_epoch`, `best_so_far`, `axis_floor`, `by_placement`, ...),
which are tested without drawing. A figure has 1500 x 675 pixels and the same bytes each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    SOFT_INK,
    VERMILLION,
    Array,
    TrialPoint,
    add_legend,
    add_note,
    as_png,
    axis_floor,
    backing,
    counted,
    decorate,
    dot,
    draw_dots,
    new_figure,
    nothing_yet,
    notice,
    only_finite,
    percent,
    percent_tick,
    plain_tick,
    points_in,
    round_ticks,
    row_size,
    shorten,
    value_of,
    whole_numbers,
)

MOST_BARS: Final = 20
NOTE_WIDTH: Final = 0.3  # of an axis of `curves`: the note about the best epoch
COLUMNS: Final = (52, 108, 140)  # right of the axes, in points: mean, median, n


class PlacementRow(NamedTuple):
    """The accuracies that the trials of one placement reached, by number."""

    placement: str
    complete: tuple[float, ...]
    pruned: tuple[float, ...]


# --- curves of one run ----------------------------------------------------------------------------


def curves(epochs: Sequence[Mapping[str, float]], title: str) -> bytes:
    """Accuracy and loss of one run against its epochs, on training and on validation images.

    Args:
        epochs: one mapping an epoch with `epoch` and, as MLflow names them, `train/accuracy`,
            `val/accuracy` (in [0, 1]), `train/loss` and `val/loss` (nats).
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
    """Index of the highest validation accuracy, among equals of the lowest loss; None if none is finite."""
    finite = [i for i, row in enumerate(rows) if math.isfinite(row["val/accuracy"])]
    return max(finite, key=lambda i: (rows[i]["val/accuracy"], -rows[i]["val/loss"]), default=None)


def apart(first: float, second: float, least: float) -> tuple[float, float]:
    """Both moved away from their middle, in their order, until they are `least` apart."""
    if abs(first - second) >= least:
        return first, second
    middle, half = (first + second) / 2, math.copysign(least / 2, first - second)
    return middle + half, middle - half


def is_room_above(values: Sequence[float], low: float, high: float) -> bool:
    """Whether the finite `values`, between `low` and `high`, leave more room above than below them."""
    finite = [value for value in values if math.isfinite(value)]
    return not finite or high - max(finite) >= min(finite) - low


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
    train, val = (only_finite(row[f"{split}/{metric}"] for row in rows) for split in ("train", "val"))
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
    """The names of the two curves at their right ends."""
    ends = [values[np.isfinite(values)][-1:] for values in (train, val)]
    if not all(len(end) for end in ends):
        return
    low, high = axes.get_ylim()
    heights = apart(float(ends[0][0]), float(ends[1][0]), 0.06 * (high - low))
    for name, color, height in zip(("train", "validation"), ("#9C6A00", BLUE), heights, strict=True):
        add_note(axes, name, (last, height), (10, 0), color=color, fontweight="bold")


def _mark_best_epoch(axes: Axes, epochs: Array, train: Array, val: Array, best: int, value: str) -> None:
    """A ring, a dashed line, and beside the line, where there is more room, what it marks."""
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


# --- history of a study ---------------------------------------------------------------------------


def history(trials: Sequence[TrialPoint], title: str) -> bytes:
    """Validation accuracy against trial number, with the best so far.

    Args:
        trials: in any order; complete, pruned and failed ones are drawn.
        title: the heading.

    Returns:
        A PNG image.
    """
    complete, pruned = points_in(trials, "complete"), points_in(trials, "pruned")
    failed = [trial.number for trial in trials if trial.state == "failed"]
    if not complete and not pruned:
        return notice(title, nothing_yet(trials))
    best = best_so_far(trials)
    values = [value for _, value in complete + pruned]
    floor = axis_floor(values)
    figure = new_figure(title, _history_summary(trials, best))
    axes = figure.subplots()
    decorate(axes, "Validation accuracy", "y")
    round_ticks(axes.yaxis, percent_tick)
    axes.set_ylim(*limits([floor, max(values)], margin=0.1))
    whole_numbers(axes, "trial", min(t.number for t in trials), max(t.number for t in trials))
    for state, points in (("pruned", pruned), ("complete", complete)):
        draw_dots(axes, [point for point in points if point[1] >= floor], state, "o", len(values))
        draw_dots(axes, [(x, axes.get_ylim()[0]) for x, y in points if y < floor], state, "v", len(values))
    axes.plot(failed, [0.03] * len(failed), "x", color=SOFT_INK, markersize=5, transform=axes.get_xaxis_transform())
    _draw_best_so_far(axes, best, max(trial.number for trial in trials))
    add_legend(
        figure,
        (dot("o", BLUE, BLUE), f"complete ({len(complete)})", bool(complete)),
        (dot("o", "white", GREY), f"pruned ({len(pruned)})", bool(pruned)),
        (dot("x", SOFT_INK, SOFT_INK), f"failed ({len(failed)})", bool(failed)),
        (dot("v", "white", SOFT_INK), f"below {percent(floor)}", min(values) < floor),
        (Line2D([], [], color=VERMILLION, linewidth=1.8), "best so far", bool(best)),
    )
    return as_png(figure)


def best_so_far(trials: Iterable[TrialPoint]) -> list[tuple[int, float]]:
    """Number and value of each complete trial that was better than all complete ones before it."""
    steps: list[tuple[int, float]] = []
    for number, value in points_in(trials, "complete"):
        if not steps or value > steps[-1][1]:
            steps.append((number, value))
    return steps


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The range of the finite values, widened at both ends by `margin` of it; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = margin * (high - low) or max(0.01 * abs(high), 0.005)
    return low - pad, high + pad


def _history_summary(trials: Sequence[TrialPoint], best: Sequence[tuple[int, float]]) -> str:
    count = counted(len(trials), "trial")
    if not best:
        return f"{count}, none complete."
    number, value = best[-1]
    return f"Best {percent(value)} in trial {number}, of {count}."


def _draw_best_so_far(axes: Axes, best: Sequence[tuple[int, float]], last: int) -> None:
    if not best:
        return
    number, value = best[-1]
    numbers, values = zip(*best, (max(last, number), value), strict=True)
    axes.step(numbers, values, where="post", color=VERMILLION, linewidth=1.8, zorder=2.5)
    axes.plot([number], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=VERMILLION,
              markeredgewidth=1.8, zorder=5)  # fmt: skip
    left, right = axes.get_xlim()
    place = (number - left) / (right - left)
    ha = "left" if place < 0.1 else "right" if place > 0.9 else "center"
    add_note(axes, f"{percent(value)}, trial {number}", (number, value), (0, 8), ha=ha, va="bottom", color=VERMILLION,
          fontweight="bold")  # fmt: skip


# --- importance of the parameters -----------------------------------------------------------------


def importance(importances: Sequence[tuple[str, float]], title: str) -> bytes:
    """How much each parameter decides, as bars.

    Args:
        importances: parameters with their importances, in any order.
        title: the heading.

    Returns:
        A PNG image; where there are no importances it says why.
    """
    ranked = rank(importances)
    if not ranked:
        return notice(title, "Importances need at least 2 finished trials that differ in a parameter.")
    shown = ranked[:MOST_BARS]
    left_out = f" The {len(ranked) - len(shown)} smallest are left out." if len(ranked) > len(shown) else ""
    figure = new_figure(title, "Relative importance for the validation accuracy." + left_out)
    _draw_bars(figure.subplots(), shown)
    return as_png(figure)


def rank(importances: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The finite importances, largest first, equal ones by name."""
    return sorted((pair for pair in importances if math.isfinite(pair[1])), key=lambda pair: (-pair[1], pair[0]))


def _draw_bars(axes: Axes, ranked: Sequence[tuple[str, float]]) -> None:
    rows = range(len(ranked))
    values = [value for _, value in ranked]
    size = row_size(len(ranked))
    axes.barh(rows, values, height=0.58, color=BLUE, linewidth=0)
    for row, value in enumerate(values):
        add_note(axes, f"{value:.3f}", (max(value, 0.0), row), (5, 0), fontsize=size)
    spare = max(0.0, 5 - len(ranked)) / 2  # a single bar does not fill the figure
    axes.set_ylim(len(ranked) - 0.5 + spare, -0.5 - spare)
    axes.set_xlim(min(0.0, *values), 1.08 * max(0.0, *values) or 1.0)
    axes.set_yticks(rows, [shorten(name, 32) for name, _ in ranked], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GREY)


# --- accuracy by placement ------------------------------------------------------------------------


def placements(trials: Sequence[TrialPoint], title: str) -> bytes:
    """Validation accuracy by placement: every trial a dot, with mean, median and number.

    Args:
        trials: in any order; complete and pruned ones that have a `placement` are drawn.
        title: the heading.

    Returns:
        A PNG image.
    """
    rows = by_placement(trials)
    if not rows:
        return notice(title, nothing_yet(trials, "placement"))
    values = [value for row in rows for value in (*row.complete, *row.pruned)]
    floor = axis_floor(values)
    has_marks = any(len(row.complete) > 1 for row in rows)
    has_complete = any(row.complete for row in rows)
    figure = new_figure(title, "Sorted by the median of the complete trials." if has_complete else "No complete trial.")
    axes = figure.subplots()
    decorate(axes, "", "x")
    axes.set_xlabel("validation accuracy", fontsize=10, color=SOFT_INK)
    round_ticks(axes.xaxis, percent_tick)
    axes.set_xlim(*limits([floor, max(values)], margin=0.05))
    _set_rows(axes, [row.placement for row in rows])
    for height, row in enumerate(rows):
        for state, points in (("pruned", row.pruned), ("complete", row.complete)):
            _draw_strip(axes, height, points, floor, state, len(values))
        _draw_statistics(axes, height, row, row_size(len(rows)))
    add_legend(
        figure,
        (dot("o", BLUE, BLUE), "complete", has_complete),
        (dot("o", "white", GREY), "pruned", any(row.pruned for row in rows)),
        (dot("<", "white", SOFT_INK), f"below {percent(floor)}", min(values) < floor),
        (dot("|", INK, INK, 11), "median", has_marks),
        (dot("D", "white", INK), "mean", has_marks),
    )
    return as_png(figure)


def by_placement(trials: Iterable[TrialPoint]) -> list[PlacementRow]:
    """The placements that have a value, the highest median of complete trials first, those without one last."""
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if "placement" in trial.params and trial.state in ("complete", "pruned") and math.isfinite(value_of(trial)):
            group = groups.setdefault(str(trial.params["placement"]), ([], []))
            group[trial.state == "pruned"].append(value_of(trial))
    rows = [PlacementRow(name, tuple(complete), tuple(pruned)) for name, (complete, pruned) in groups.items()]
    return sorted(rows, key=lambda row: (-np.median(row.complete) if row.complete else math.inf, row.placement))


def jitter(count: int) -> list[float]:
    """Offsets in [-0.5, 0.5) that spread evenly however many there are: multiples of the golden ratio."""
    return [(i * (math.sqrt(5) - 1) / 2 + 0.5) % 1 - 0.5 for i in range(count)]


def _set_rows(axes: Axes, names: Sequence[str]) -> None:
    spare = max(0.0, 3 - len(names)) / 2  # a single row does not fill the figure
    axes.set_ylim(len(names) - 0.5 + spare, -0.5 - spare)
    axes.set_yticks(range(len(names)), [shorten(name, 24) for name in names], parse_math=False)
    axes.tick_params(axis="y", labelsize=row_size(len(names)), labelcolor=INK)
    for height in range(1, len(names)):
        axes.axhline(height - 0.5, color=GRID, linewidth=0.8, zorder=0)
    for text, right in zip(("mean", "median", "n"), COLUMNS, strict=True):
        add_note(axes, text, (1, 1), (right, 4), "axes fraction", ha="right", va="bottom", color=SOFT_INK)


def _draw_strip(axes: Axes, height: int, values: Sequence[float], floor: float, state: str, count: int) -> None:
    points = [(value, height + 0.56 * offset) for value, offset in zip(values, jitter(len(values)), strict=True)]
    draw_dots(axes, [point for point in points if point[0] >= floor], state, "o", count)
    draw_dots(axes, [(axes.get_xlim()[0], y) for x, y in points if x < floor], state, "<", count)


def _draw_statistics(axes: Axes, height: int, row: PlacementRow, size: float) -> None:
    texts = ("\N{EN DASH}", "\N{EN DASH}", "0")
    if row.complete:
        mean, median = float(np.mean(row.complete)), float(np.median(row.complete))
        texts = (percent(mean), percent(median), str(len(row.complete)))
    if len(row.complete) > 1:
        axes.plot([median, median], [height - 0.36, height + 0.36], color=INK, linewidth=2, zorder=2.5)
        axes.plot([mean], [height], "D", markersize=6.5, markerfacecolor="white", markeredgecolor=INK, zorder=6)
    for text, right in zip(texts, COLUMNS, strict=True):
        add_note(axes, text, (1, height), (right, 0), ("axes fraction", "data"), ha="right", fontsize=size)
