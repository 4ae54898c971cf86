"""A sweep's pictures for MLflow and the report: history, importance and placements.

Small pure functions (`best_so_far`, `rank`, `by_placement`) decide what is drawn and are tested without drawing.
The same trials give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.core.metric import Metric
from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    SOFT_INK,
    VERMILLION,
    add_legend,
    add_note,
    as_png,
    axis_ends,
    axis_title,
    counted,
    decorate,
    dot,
    limits,
    new_figure,
    notice,
    round_ticks,
    row_size,
    shorten,
    tick_of,
    whole_numbers,
    written,
)
from sweeper.report.sweep.rows import SweptTrial, valued

if TYPE_CHECKING:
    from sweeper.study.importance import Importance

MOST_BARS: Final = 20
TOO_FEW: Final = "Importances need 8 complete trials that differ in a parameter and are not equally good."
COLUMNS: Final = {"mean": 52, "median": 108, "n": 140}  # right of the axes, in points


class PlacementRow(NamedTuple):
    """The values of one placement's trials, by trial number."""

    placement: str
    complete: tuple[float, ...]
    pruned: tuple[float, ...]


# --- history of a study ---------------------------------------------------------------------------


def history(trials: Sequence[SweptTrial], metric: Metric, title: str) -> bytes:
    """Draw the values of a metric against trial number, with the best so far; `trials` may have any order."""
    complete, pruned = valued(trials, "complete"), valued(trials, "pruned")
    if not complete and not pruned:
        return notice(title, _nothing_yet(trials))
    values = [t.score for t in complete + pruned]
    numbers = [t.number for t in trials]
    failed = [t.number for t in trials if t.state == "failed"]
    best, ends = best_so_far(trials, metric), axis_ends(values, metric)
    count = counted(len(trials), "trial")
    words = f"{count}, none complete."
    if best:
        words = f"Best {written(best[-1][1], metric)} in trial {best[-1][0]}, of {count}."
    figure = new_figure(title, words)
    axes = figure.subplots()
    name = axis_title(metric)
    decorate(axes, name[0].upper() + name[1:], "y")
    round_ticks(axes.yaxis, tick_of(metric))
    axes.set_ylim(*limits(ends, margin=0.1))
    whole_numbers(axes, "trial", min(numbers), max(numbers))
    for group, is_complete in ((pruned, False), (complete, True)):
        _draw_dots(axes, [(t.number, t.score) for t in group], ends, len(values), is_complete)
    height = 0.03 if metric.maximized else 0.97  # at the worse end
    axes.plot(failed, [height] * len(failed), "x", color=SOFT_INK, markersize=5, transform=axes.get_xaxis_transform())
    if best:
        _draw_best_so_far(axes, best, max(numbers), metric)
    add_legend(
        figure,
        (dot("o", BLUE, BLUE), f"complete ({len(complete)})", bool(complete)),
        (dot("o", "white", GREY), f"pruned ({len(pruned)})", bool(pruned)),
        (dot("x", SOFT_INK, SOFT_INK), f"failed ({len(failed)})", bool(failed)),
        *_outside(values, ends, metric, "v^"),
        (Line2D([], [], color=VERMILLION, linewidth=1.8), "best so far", bool(best)),
    )
    return as_png(figure)


def best_so_far(trials: Iterable[SweptTrial], metric: Metric) -> list[tuple[int, float]]:
    """Return number and value of each complete trial that was better than all complete ones before it."""
    steps: list[tuple[int, float]] = []
    for trial in valued(trials, "complete"):
        if not steps or metric.cost(trial.score) < metric.cost(steps[-1][1]):
            steps.append((trial.number, trial.score))
    return steps


def _draw_best_so_far(axes: Axes, best: Sequence[tuple[int, float]], last: int, metric: Metric) -> None:
    number, value = best[-1]
    numbers, values = zip(*best, (last, value), strict=True)
    axes.step(numbers, values, where="post", color=VERMILLION, linewidth=1.8, zorder=2.5)
    axes.plot([number], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=VERMILLION,
              markeredgewidth=1.8, zorder=5)  # fmt: skip
    left, right = axes.get_xlim()
    place = (number - left) / (right - left)
    ha = "left" if place < 0.1 else "right" if place > 0.9 else "center"
    up, va = (8, "bottom") if metric.maximized else (-8, "top")
    add_note(axes, f"{written(value, metric)}, trial {number}", (number, value), (0, up), ha=ha, va=va,
             color=VERMILLION, fontweight="bold")  # fmt: skip


# --- importance of the parameters -----------------------------------------------------------------


def importance(importances: Sequence[Importance], title: str) -> bytes:
    """Draw how far each parameter decides which trials are the best, with bootstrap intervals; below them those that
    were not measured, with the reason."""
    ranked = rank(importances)
    if not any(found.measured for found in ranked):
        return notice(title, TOO_FEW)
    words = "How far each parameter decides which trials are the best, as a share, with 95% bootstrap intervals."
    if len(ranked) > MOST_BARS:
        words += f" {len(ranked) - MOST_BARS} are left out."
    figure = new_figure(title, words)
    _draw_bars(figure.subplots(), ranked[:MOST_BARS])
    return as_png(figure)


def rank(importances: Iterable[Importance]) -> list[Importance]:
    """Return the importances, largest first, equal ones by name, those that were not measured last."""
    return sorted(importances, key=lambda i: (-i.share if i.measured else math.inf, i.parameter))


def _draw_bars(axes: Axes, ranked: Sequence[Importance]) -> None:
    size = row_size(len(ranked))
    ends = [max(0.0, found.share, found.high) if found.measured else 0.0 for found in ranked]
    measured = [(row, found) for row, found in enumerate(ranked) if found.measured]
    axes.barh(
        [row for row, _ in measured], [found.share for _, found in measured], height=0.58, color=BLUE, linewidth=0
    )
    for row, found in measured:
        axes.plot([found.low, found.high], [row, row], color=INK, linewidth=1.4)
    for row, found in enumerate(ranked):
        style = {"color": INK if found.measured else SOFT_INK}
        add_note(axes, share_in_words(found), (ends[row], row), (6, 0), fontsize=size, **style)
    spare = max(0.0, 5 - len(ranked)) / 2  # a single bar does not fill the figure
    axes.set_ylim(len(ranked) - 0.5 + spare, -0.5 - spare)
    axes.set_xlim(0.0, 1.5 * max(ends) or 1.0)  # room for the words
    axes.set_yticks(range(len(ranked)), [shorten(found.parameter, 32) for found in ranked], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GREY)


def share_in_words(found: Importance) -> str:
    """Return a share with its interval and the number of trials, or why there is none."""
    if not found.measured:
        return f"not measured: {found.gap}"
    return f"{found.share:.2f} [{found.low:.2f}, {found.high:.2f}], {counted(found.trials, 'trial')}"


# --- values by placement --------------------------------------------------------------------------


def placements(trials: Sequence[SweptTrial], metric: Metric, title: str) -> bytes:
    """Draw the values of a metric by placement: a dot for each complete or pruned trial, with mean, median and
    number."""
    rows = by_placement(trials, metric)
    if not rows:
        return notice(title, _nothing_yet(trials, "placement"))
    values = [value for row in rows for value in (*row.complete, *row.pruned)]
    ends = axis_ends(values, metric)
    has_marks = any(len(row.complete) > 1 for row in rows)
    has_complete = any(row.complete for row in rows)
    figure = new_figure(title, "Sorted by the median of the complete trials." if has_complete else "No complete trial.")
    axes = figure.subplots()
    decorate(axes, "", "x")
    axes.set_xlabel(axis_title(metric), fontsize=10, color=SOFT_INK)
    round_ticks(axes.xaxis, tick_of(metric))
    axes.set_xlim(*limits(ends, margin=0.05))
    _set_rows(axes, [row.placement for row in rows])
    for height, row in enumerate(rows):
        for group, is_complete in ((row.pruned, False), (row.complete, True)):
            points = [(height + 0.56 * away, value) for away, value in zip(jitter(len(group)), group, strict=True)]
            _draw_dots(axes, points, ends, len(values), is_complete, upright=False)
        _draw_statistics(axes, height, row, row_size(len(rows)), metric)
    add_legend(
        figure,
        (dot("o", BLUE, BLUE), "complete", has_complete),
        (dot("o", "white", GREY), "pruned", any(row.pruned for row in rows)),
        *_outside(values, ends, metric, "<>"),
        (dot("|", INK, INK, 11), "median", has_marks),
        (dot("D", "white", INK), "mean", has_marks),
    )
    return as_png(figure)


def by_placement(trials: Iterable[SweptTrial], metric: Metric) -> list[PlacementRow]:
    """Return the placements that have a value: best median of complete trials first, those without one last."""
    having = [trial for trial in trials if "placement" in trial.params]
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for i, state in enumerate(("complete", "pruned")):
        for trial in valued(having, state):
            groups.setdefault(str(trial.params["placement"]), ([], []))[i].append(trial.score)
    rows = [PlacementRow(name, tuple(complete), tuple(pruned)) for name, (complete, pruned) in groups.items()]

    def cost(row: PlacementRow) -> float:
        return metric.cost(float(np.median(row.complete))) if row.complete else math.inf

    return sorted(rows, key=lambda row: (cost(row), row.placement))


def jitter(count: int) -> list[float]:
    """Return evenly spread offsets in [-0.5, 0.5), however many: multiples of the golden ratio."""
    return [(i * (math.sqrt(5) - 1) / 2 + 0.5) % 1 - 0.5 for i in range(count)]


def _set_rows(axes: Axes, names: Sequence[str]) -> None:
    spare = max(0.0, 3 - len(names)) / 2  # a single row does not fill the figure
    axes.set_ylim(len(names) - 0.5 + spare, -0.5 - spare)
    axes.set_yticks(range(len(names)), [shorten(name, 24) for name in names], parse_math=False)
    axes.tick_params(axis="y", labelsize=row_size(len(names)), labelcolor=INK)
    for height in range(1, len(names)):
        axes.axhline(height - 0.5, color=GRID, linewidth=0.8, zorder=0)
    for text, right in COLUMNS.items():
        add_note(axes, text, (1, 1), (right, 4), "axes fraction", ha="right", va="bottom", color=SOFT_INK)


def _draw_statistics(axes: Axes, height: int, row: PlacementRow, size: float, metric: Metric) -> None:
    texts = ("\N{EN DASH}", "\N{EN DASH}", "0")
    if row.complete:
        mean, median = float(np.mean(row.complete)), float(np.median(row.complete))
        texts = (written(mean, metric), written(median, metric), str(len(row.complete)))
    if len(row.complete) > 1:
        axes.plot([median, median], [height - 0.36, height + 0.36], color=INK, linewidth=2, zorder=2.5)
        axes.plot([mean], [height], "D", markersize=6.5, markerfacecolor="white", markeredgecolor=INK, zorder=6)
    for text, right in zip(texts, COLUMNS.values(), strict=True):
        add_note(axes, text, (1, height), (right, 0), ("axes fraction", "data"), ha="right", fontsize=size)


# --- both -----------------------------------------------------------------------------------------


def _draw_dots(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    ends: tuple[float, float],
    count: int,
    is_complete: bool,
    *,
    upright: bool = True,
) -> None:
    """Draw places and values as dots, smaller the more the figure holds; those outside of `ends` as arrows at its edge.

    The values run upward, or to the right if not `upright`.
    """
    size = 36 if count <= 80 else 22 if count <= 300 else 12
    fill, edge, width = (BLUE, "white", 0.5) if is_complete else ("white", GREY, 1)
    foot, head = axes.get_ylim() if upright else axes.get_xlim()
    low, high = ends
    for marker, group in (
        ("o", [(place, value) for place, value in points if low <= value <= high]),
        ("v" if upright else "<", [(place, foot) for place, value in points if value < low]),
        ("^" if upright else ">", [(place, head) for place, value in points if value > high]),
    ):
        places, values = [place for place, _ in group], [value for _, value in group]
        x, y = (places, values) if upright else (values, places)
        axes.scatter(x, y, s=size, marker=marker, facecolors=fill, edgecolors=edge, linewidths=width, zorder=3,
                     clip_on=False)  # fmt: skip


def _outside(
    values: Sequence[float], ends: tuple[float, float], metric: Metric, arrows: str
) -> list[tuple[Line2D, str, bool]]:  # fmt: skip
    """Return the entries of a legend for the values below and above `ends`."""
    return [
        (dot(arrows[0], "white", SOFT_INK), f"below {written(ends[0], metric)}", min(values) < ends[0]),
        (dot(arrows[1], "white", SOFT_INK), f"above {written(ends[1], metric)}", max(values) > ends[1]),
    ]


def _nothing_yet(trials: Sequence[SweptTrial], parameter: str = "") -> str:
    """Return why a figure of `trials` shows nothing."""
    if not trials:
        return "The study has no trials yet."
    if parameter and all(parameter not in trial.params for trial in trials):
        return f"No trial has the parameter {parameter}."
    return f"None of {counted(len(trials), 'trial')} has reported a value yet."
