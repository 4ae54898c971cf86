"""Parallel coordinates: one axis a parameter, one line a trial, ending at its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from sweeper.report.figure import (
    GREY,
    INK,
    SOFT_INK,
    VERMILLION,
    Array,
    TrialPoint,
    add_note,
    as_png,
    axis_floor,
    backing,
    counted,
    new_figure,
    nothing_yet,
    notice,
    percent,
    percent_tick,
    rounded,
    shorten,
    value_of,
)

RAMP: Final = ("#BCCBDA", "#7DBBE2", "#0072B2", "#002B45")  # worst to best, ever darker
LOG_SCALED: Final = frozenset({"batch_size", "lr", "weight_decay"})
BELOW: Final = -0.15  # where a parallel axis holds the trials that lack its parameter
FIRST_POSITIVE: Final = 0.14  # of a logarithmic axis that also holds a 0, which stands at its foot
FEW: Final = 7  # distinct numbers that are each a tick
TICKS_APART: Final = 0.055  # of an axis, so that two labels do not touch
FAN: Final = 0.08  # of an axis: the spread of trials that all have the same value
MOST_LINES: Final = 500


class ParallelAxis(NamedTuple):
    """One axis of the parallel coordinates; 0 is its foot and 1 its head."""

    name: str
    positions: tuple[float, ...]  # one a trial; BELOW where the trial lacks the parameter
    ticks: tuple[tuple[float, str], ...]  # position and label, upwards


def parallel_coordinates(trials: Sequence[TrialPoint], title: str) -> bytes:
    """Every trial as a line through its parameters to its validation accuracy.

    Args:
        trials: in any order; complete ones are coloured by value, pruned ones are grey and stop
            before the last axis, others are not drawn. Of more than `MOST_LINES` every n-th is
            drawn, the best among them, and the figure says so.
        title: the heading.

    Returns:
        A PNG image.
    """
    complete = worst_first(trials)
    pruned = sorted((t for t in trials if t.state == "pruned"), key=lambda t: t.number)
    names = parameter_names([*pruned, *complete])
    if not names:
        return notice(title, "The trials have no parameters." if complete or pruned else nothing_yet(trials))
    if len(names) == 1 and not complete:
        return notice(title, "No trial is complete yet.")
    step = 1 + (len(complete) + len(pruned) - 1) // MOST_LINES
    figure = new_figure(title, _parallel_summary(complete, len(pruned), step))
    complete, pruned = complete[::-step][::-1], pruned[::step]  # the best stays
    parallel = [parallel_axis(name, [t.params.get(name) for t in (*pruned, *complete)]) for name in names]
    heights = np.stack([axis.positions for axis in parallel], axis=1)  # (trials, parameters)
    axes = figure.subplots()
    _frame(axes, len(names) if complete else len(names) - 1, bool((heights == BELOW).any()))
    heights = fanned(heights)
    _draw_lines(axes, heights[: len(pruned)], [to_rgba(GREY, _alpha(len(pruned)) / 2)] * len(pruned), [0.8])
    if complete:
        _draw_complete(axes, heights[len(pruned) :], [value_of(trial) for trial in complete])
    for x, axis in enumerate(parallel):
        _draw_axis(axes, x, axis, len(names))
    return as_png(figure)


def worst_first(trials: Iterable[TrialPoint]) -> list[TrialPoint]:
    """The complete trials, the best last; among equals the earlier is the better."""
    complete = [trial for trial in trials if trial.state == "complete" and math.isfinite(value_of(trial))]
    return sorted(complete, key=lambda trial: (value_of(trial), -trial.number))


def parameter_names(trials: Iterable[TrialPoint]) -> list[str]:
    """The parameters that any trial has, in the order in which the trials by number first name them."""
    by_number = sorted(trials, key=lambda trial: trial.number)
    return list(dict.fromkeys(name for trial in by_number for name in trial.params))


def parallel_axis(name: str, values: Sequence[float | int | str | None]) -> ParallelAxis:
    """The axis of one parameter, of which each trial has a value or None.

    Categories stand evenly apart, downwards in the order of their names. Numbers stand to scale between the
    smallest and the largest, those of `LOG_SCALED` by their logarithms, with a 0 at the foot.
    """
    present = [value for value in values if value is not None]
    if any(isinstance(value, (str, bool)) for value in present):
        labels = sorted({str(value) for value in present}, reverse=True)
        order = {label: float(i) for i, label in enumerate(labels)}
        scale = _linear_scale(0, len(labels) - 1)
        positions = tuple(BELOW if value is None else scale(order[str(value)]) for value in values)
        ticks = [(scale(order[label]), label) for label in labels]
        return ParallelAxis(name, positions, _thinned(ticks))
    numbers = sorted({float(value) for value in present})
    logarithmic = name in LOG_SCALED and numbers[-1] > 0
    scale = _log_scale(numbers) if logarithmic else _linear_scale(numbers[0], numbers[-1])
    positions = tuple(BELOW if value is None else scale(float(value)) for value in values)
    if len(numbers) <= FEW:
        marks = numbers
    else:
        marks = _log_marks(numbers) if logarithmic else _round_marks(numbers[0], numbers[-1])
    ticks = [(scale(mark), rounded(mark)) for mark in marks]
    return ParallelAxis(name, positions, _thinned(ticks))


def objective_axis(values: Sequence[float]) -> ParallelAxis:
    """The axis of the accuracies, from `axis_floor`; those below it stand at the foot."""
    floor, top = axis_floor(values), max(values)
    scale = _linear_scale(floor, top)
    ticks = [(scale(mark), percent_tick(round(mark, 4))) for mark in _round_marks(floor, top)]
    if min(values) < floor:
        ticks = [(0.0, f"\N{LESS-THAN OR EQUAL TO} {percent(floor)}"), *ticks]
    return ParallelAxis("accuracy", tuple(max(0.0, scale(value)) for value in values), _thinned(ticks))


def fanned(heights: Array) -> Array:
    """`heights` `(trials, axes)` with trials of the same value spread into a band, later trials higher.

    The band of k among n trials is `FAN * sqrt(k / n)` wide; a value that one trial has stays in place.
    """
    spread = heights.copy()
    for column, original in zip(spread.T, heights.T, strict=True):
        values, counts = np.unique(original, return_counts=True)
        for value, count in zip(values[counts > 1], counts[counts > 1], strict=True):
            width = FAN * math.sqrt(count / len(column))
            column[original == value] += width * np.linspace(-0.5, 0.5, count)
    return spread


def _linear_scale(low: float, high: float) -> Callable[[float], float]:
    return lambda value: (value - low) / (high - low) if high > low else 0.5


def _log_scale(numbers: Sequence[float]) -> Callable[[float], float]:
    """The scale of sorted `numbers`, some of them positive; zero stands at the foot."""
    positive = [number for number in numbers if number > 0]
    inner = _linear_scale(math.log(positive[0]), math.log(positive[-1]))
    foot = FIRST_POSITIVE if numbers[0] <= 0 else 0.0
    return lambda value: foot + (1 - foot) * inner(math.log(value)) if value > 0 else 0.0


def _round_marks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`; where there are fewer than two, those themselves."""
    marks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    rounding = 1e-9 * (high - low)
    inside = [float(mark) for mark in marks if low - rounding <= mark <= high + rounding]
    return inside if len(inside) > 1 else sorted({low, high})


def _log_marks(numbers: Sequence[float]) -> list[float]:
    """Powers of ten among sorted `numbers`, with multiples where those are fewer than three."""
    low, high = min(number for number in numbers if number > 0), numbers[-1]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 3), (1, 2, 5)):
        marks = [float(f"{multiple}e{decade}") for decade in decades for multiple in multiples]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) > 2:
            break
    else:
        inside = [low, high]
    return [0.0, *inside] if numbers[0] <= 0 else inside


def _thinned(ticks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """The ticks, from below, that do not touch the one kept before."""
    kept: list[tuple[float, str]] = []
    for position, label in ticks:
        if not kept or position - kept[-1][0] >= TICKS_APART:
            kept.append((position, label))
    return tuple(kept)


def _parallel_summary(complete: Sequence[TrialPoint], pruned: int, step: int) -> str:
    clauses = [counted(len(complete), "complete trial") if complete else "No complete trial"]
    if complete:
        clauses.append(f"the best in orange: {percent(value_of(complete[-1]))}, trial {complete[-1].number}")
    if pruned:
        clauses.append(f"{pruned:,} pruned in grey")
    if step > 1:
        clauses.append(f"one line for every {step} trials")
    return "; ".join(clauses) + "."


def _frame(axes: Axes, last: int, has_missing: bool) -> None:
    """Limits around the axes 0 to `last`, which are ours, in place of matplotlib's own."""
    axes.set_xlim(-0.01 * max(last, 1), 1.02 * max(last, 1))
    axes.set_ylim((BELOW if has_missing else 0.0) - FAN / 2, 1.0 + FAN / 2)
    axes.set_axis_off()


def _draw_complete(axes: Axes, heights: Array, values: Sequence[float]) -> None:
    """Lines from the worst to the best, which is drawn last, and their axis, which is the colour bar."""
    objective = objective_axis(values)
    ramp = LinearSegmentedColormap.from_list("ramp", RAMP)
    lines = np.column_stack([heights, objective.positions])
    colors = ramp(np.array(objective.positions))  # (trials, RGBA)
    weight = np.linspace(0, 1, len(values)) ** 4
    faintest = _alpha(len(values))
    colors[:, 3] = faintest + (0.95 - faintest) * weight
    _draw_lines(axes, lines[:-1], colors[:-1], 0.8 + 0.8 * weight[:-1])
    _draw_lines(axes, lines[-1:], [VERMILLION], [2.6])
    x = heights.shape[1]
    right = 1.0125 * x
    axes.imshow(np.linspace(0, 1, 256)[:, None], cmap=ramp, extent=(x, right, 0, 1), origin="lower", aspect="auto",
                zorder=5, clip_on=False)  # fmt: skip
    _name_axis(axes, x, objective.name, x)
    for position, label in objective.ticks:
        add_note(axes, label, (right, position), (4, 0), fontsize=8.5)


def _draw_lines(axes: Axes, heights: Array, colors: Sequence[Any] | Array, widths: Sequence[float] | Array) -> None:
    """One smooth line for each row of `heights` `(trials, axes)`, the later ones on top."""
    paths = [_smooth(row) for row in heights]
    axes.add_collection(PathCollection(paths, facecolors="none", edgecolors=colors, linewidths=widths, zorder=2,
                                       clip_on=False), autolim=False)  # fmt: skip


def _alpha(lines: int) -> float:
    """How opaque the faintest of so many lines is."""
    return min(0.9, max(0.2, 40 / max(1, lines)))


def _smooth(heights: Array) -> Path:
    """Cubic Bezier curves that are level where they cross an axis."""
    x = np.arange(len(heights), dtype=float)
    points = np.stack([x, heights], axis=1)
    level = np.array([0.45, 0.0])
    bends = np.stack([points[:-1] + level, points[1:] - level, points[1:]], axis=1).reshape(-1, 2)
    return Path(np.concatenate([points[:1], bends]), [Path.MOVETO, *[Path.CURVE4] * len(bends)])


def _draw_axis(axes: Axes, x: int, axis: ParallelAxis, parameters: int) -> None:
    axes.plot([x, x], [0, 1], color=INK, linewidth=1, zorder=3, solid_capstyle="butt", clip_on=False)
    _name_axis(axes, x, axis.name, parameters)
    size = 8.5 if parameters <= 8 else 7
    ticks = [*axis.ticks, (BELOW, "none")] if BELOW in axis.positions else axis.ticks
    axes.plot([x] * len(ticks), [position for position, _ in ticks], "_", color=INK, markersize=5, zorder=4,
              clip_on=False)  # fmt: skip
    for position, label in ticks:
        color = INK if position >= 0 else SOFT_INK
        add_note(axes, shorten(label, 18), (x, position), (-5, 0), ha="right", fontsize=size, color=color,
              bbox=backing())  # fmt: skip


def _name_axis(axes: Axes, x: int, name: str, parameters: int) -> None:
    """The name over an axis; of many axes every second name is set higher."""
    lift = 13 if parameters > 8 and x % 2 else 0
    size = 9.5 if parameters <= 8 else 8
    add_note(axes, shorten(name, 18), (x, 1 + FAN / 2), (0, 4 + lift), ha="center", va="bottom", fontsize=size,
          fontweight="bold")  # fmt: skip
