"""The pictures of a sweep: history, importance and placements, as PNG images for MLflow and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    SOFT_INK,
    VERMILLION,
    TrialPoint,
    add_legend,
    add_note,
    as_png,
    axis_floor,
    counted,
    decorate,
    dot,
    draw_dots,
    limits,
    new_figure,
    nothing_yet,
    notice,
    percent,
    percent_tick,
    points_in,
    round_ticks,
    row_size,
    shorten,
    value_of,
    whole_numbers,
)

if TYPE_CHECKING:
    from sweeper.study.importance import Importance

MOST_BARS: Final = 20
COLUMNS: Final = (52, 108, 140)  # right of the axes, in points: mean, median, n


class PlacementRow(NamedTuple):
    """The accuracies that the trials of one placement reached, by number."""

    placement: str
    complete: tuple[float, ...]
    pruned: tuple[float, ...]


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


def importance(importances: Sequence[Importance], title: str) -> bytes:
    """Bars of how much each parameter decides, with their bootstrap intervals.

    Args:
        importances: in any order.
        title: the heading.

    Returns:
        A PNG image; where there are no importances it says why.
    """
    ranked = rank(importances)
    if not ranked:
        return notice(title, "Importances need at least 2 finished trials that differ in a parameter.")
    shown = ranked[:MOST_BARS]
    left_out = f" The {len(ranked) - len(shown)} smallest are left out." if len(ranked) > len(shown) else ""
    figure = new_figure(
        title, "Share of the accuracy's variance that each parameter explains, with 95% bootstrap intervals." + left_out
    )
    _draw_bars(figure.subplots(), shown)
    return as_png(figure)


def rank(importances: Iterable[Importance]) -> list[Importance]:
    """The finite importances, largest first, equal ones by name."""
    return sorted((i for i in importances if math.isfinite(i.share)), key=lambda i: (-i.share, i.parameter))


def _draw_bars(axes: Axes, ranked: Sequence[Importance]) -> None:
    rows = range(len(ranked))
    values = [found.share for found in ranked]
    ends = [max(found.share, found.high) for found in ranked]
    size = row_size(len(ranked))
    axes.barh(rows, values, height=0.58, color=BLUE, linewidth=0)
    for row, found in enumerate(ranked):
        axes.plot([found.low, found.high], [row, row], color=INK, linewidth=1.4)
        words = f"{found.share:.3f} [{found.low:.3f}, {found.high:.3f}]"
        add_note(axes, words, (max(ends[row], 0.0), row), (6, 0), fontsize=size)
    spare = max(0.0, 5 - len(ranked)) / 2  # a single bar does not fill the figure
    axes.set_ylim(len(ranked) - 0.5 + spare, -0.5 - spare)
    axes.set_xlim(min(0.0, *values), 1.25 * max(0.0, *ends) or 1.0)
    axes.set_yticks(rows, [shorten(found.parameter, 32) for found in ranked], parse_math=False)
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
