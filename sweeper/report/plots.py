"""The figures of a report: tuples in, PNG bytes out.

What is drawn is decided by small pure functions (`best_epoch`, `best_so_far`, `axis_floor`,
`parallel_axis`, `by_placement`, ...), which are tested without drawing. A figure has 1500 x 675 pixels and
the same bytes each time. Colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which
colour-blind readers tell apart. Text is never read as mathematics: a study may be called "$5".
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

BLUE: Final = "#0072B2"  # validation
ORANGE: Final = "#E69F00"  # training
VERMILLION: Final = "#D55E00"  # the best
INK: Final = "#1F2328"
SOFT_INK: Final = "#57606A"
GREY: Final = "#8C959F"  # pruned
GRID: Final = "#E7EAEE"
RAMP: Final = ("#BCCBDA", "#7DBBE2", "#0072B2", "#002B45")  # worst to best, ever darker

LOG_SCALED: Final = frozenset({"batch_size", "lr", "weight_decay"})
BELOW: Final = -0.15  # where a parallel axis holds the trials that lack its parameter
FIRST_POSITIVE: Final = 0.14  # of a logarithmic axis that also holds a 0, which stands at its foot
FEW: Final = 7  # distinct numbers that are each a tick
TICKS_APART: Final = 0.055  # of an axis, so that two labels do not touch
FAN: Final = 0.08  # of an axis: the spread of trials that all have the same value
MOST_BARS: Final = 20
MOST_LINES: Final = 500
NOTE_WIDTH: Final = 0.3  # of an axis of `curves`: the note about the best epoch
COLUMNS: Final = (52, 108, 140)  # right of the axes, in points: mean, median, n
DPI: Final = 150

Array: TypeAlias = npt.NDArray[Any]

# Matplotlib asks its users for a lock around drawing in threads: figures share font caches.
_DRAWING: Final = threading.Lock()


class TrialPoint(NamedTuple):
    """One trial of a study, as the figures need it."""

    number: int
    state: str  # complete, pruned, running or failed
    value: float | None  # validation accuracy in [0, 1]; of a pruned trial the last one reported
    params: Mapping[str, float | int | str]


class ParallelAxis(NamedTuple):
    """One axis of the parallel coordinates; 0 is its foot and 1 its head."""

    name: str
    positions: tuple[float, ...]  # one a trial; BELOW where the trial lacks the parameter
    ticks: tuple[tuple[float, str], ...]  # position and label, upwards


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
        return _notice(title, "No epoch has finished yet.")
    best = best_epoch(rows)
    figure = _figure(title, _curves_summary(rows, best))
    left, right = figure.subplots(1, 2)
    _draw_curves(left, rows, "accuracy", best)
    _draw_curves(right, rows, "loss", best)
    return _png(figure)


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
        f"Best validation accuracy {_percent(row['val/accuracy'])} at epoch {row['epoch']:.0f} of "
        f"{rows[-1]['epoch']:.0f}; training is {abs(gap):.2f} points {'above' if gap >= 0 else 'below'} it there."
    )


def _draw_curves(axes: Axes, rows: Sequence[Mapping[str, float]], metric: str, best: int | None) -> None:
    epochs = np.array([row["epoch"] for row in rows])
    train, val = (_finite(row[f"{split}/{metric}"] for row in rows) for split in ("train", "val"))
    is_accuracy = metric == "accuracy"
    _style(axes, "Accuracy" if is_accuracy else "Loss (negative log-likelihood, nats)", "both")
    _round_ticks(axes.yaxis, _percent_tick if is_accuracy else _plain_tick)
    axes.set_ylim(*limits([*train, *val], margin=0.06 if len(rows) > 1 else 0.5))
    _whole_numbers(axes, "epoch", epochs[0], epochs[-1])
    axes.fill_between(epochs, train, val, color=SOFT_INK, alpha=0.1, linewidth=0)
    marker = "o" if len(rows) <= 30 else ""
    for values, color in ((train, ORANGE), (val, BLUE)):
        axes.plot(epochs, values, color=color, linewidth=1.8, marker=marker, markersize=3.6, zorder=3)
    _label_ends(axes, epochs[-1], train, val)
    if best is not None:
        value = _percent(val[best]) if is_accuracy else f"{val[best]:.3f}"
        _mark_best_epoch(axes, epochs, train, val, best, value)


def _label_ends(axes: Axes, last: float, train: Array, val: Array) -> None:
    """The names of the two curves at their right ends."""
    ends = [values[np.isfinite(values)][-1:] for values in (train, val)]
    if not all(len(end) for end in ends):
        return
    low, high = axes.get_ylim()
    heights = apart(float(ends[0][0]), float(ends[1][0]), 0.06 * (high - low))
    for name, color, height in zip(("train", "validation"), ("#9C6A00", BLUE), heights, strict=True):
        _note(axes, name, (last, height), (10, 0), color=color, fontweight="bold")


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
    _note(axes, f"best epoch {x:.0f}\n{value}", (x, y), (7 * side, 0), ("data", "axes fraction"), ha=ha, va=va,
          linespacing=1.4, bbox=_backing())  # fmt: skip


# --- history of a study ---------------------------------------------------------------------------


def history(trials: Sequence[TrialPoint], title: str) -> bytes:
    """Validation accuracy against trial number, with the best so far.

    Args:
        trials: in any order; complete, pruned and failed ones are drawn.
        title: the heading.

    Returns:
        A PNG image.
    """
    complete, pruned = _points(trials, "complete"), _points(trials, "pruned")
    failed = [trial.number for trial in trials if trial.state == "failed"]
    if not complete and not pruned:
        return _notice(title, _nothing_yet(trials))
    best = best_so_far(trials)
    values = [value for _, value in complete + pruned]
    floor = axis_floor(values)
    figure = _figure(title, _history_summary(trials, best))
    axes = figure.subplots()
    _style(axes, "Validation accuracy", "y")
    _round_ticks(axes.yaxis, _percent_tick)
    axes.set_ylim(*limits([floor, max(values)], margin=0.1))
    _whole_numbers(axes, "trial", min(t.number for t in trials), max(t.number for t in trials))
    for state, points in (("pruned", pruned), ("complete", complete)):
        _draw_dots(axes, [point for point in points if point[1] >= floor], state, "o", len(values))
        _draw_dots(axes, [(x, axes.get_ylim()[0]) for x, y in points if y < floor], state, "v", len(values))
    axes.plot(failed, [0.03] * len(failed), "x", color=SOFT_INK, markersize=5, transform=axes.get_xaxis_transform())
    _draw_best_so_far(axes, best, max(trial.number for trial in trials))
    _legend(
        figure,
        (_dot("o", BLUE, BLUE), f"complete ({len(complete)})", bool(complete)),
        (_dot("o", "white", GREY), f"pruned ({len(pruned)})", bool(pruned)),
        (_dot("x", SOFT_INK, SOFT_INK), f"failed ({len(failed)})", bool(failed)),
        (_dot("v", "white", SOFT_INK), f"below {_percent(floor)}", min(values) < floor),
        (Line2D([], [], color=VERMILLION, linewidth=1.8), "best so far", bool(best)),
    )
    return _png(figure)


def best_so_far(trials: Iterable[TrialPoint]) -> list[tuple[int, float]]:
    """Number and value of each complete trial that was better than all complete ones before it."""
    steps: list[tuple[int, float]] = []
    for number, value in _points(trials, "complete"):
        if not steps or value > steps[-1][1]:
            steps.append((number, value))
    return steps


def axis_floor(values: Sequence[float]) -> float:
    """Where an axis of accuracies starts: the smallest value that is no outlier.

    An outlier is more than 1.5 interquartile ranges below the lower quartile (Tukey 1977). One
    diverged trial at 10% would otherwise press all others into a line at the head.
    """
    lower, upper = np.quantile(values, (0.25, 0.75))
    return min(value for value in values if value >= lower - 1.5 * (upper - lower))


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The range of the finite values, widened at both ends by `margin` of it; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = margin * (high - low) or max(0.01 * abs(high), 0.005)
    return low - pad, high + pad


def _history_summary(trials: Sequence[TrialPoint], best: Sequence[tuple[int, float]]) -> str:
    count = _count(len(trials), "trial")
    if not best:
        return f"{count}, none complete."
    number, value = best[-1]
    return f"Best {_percent(value)} in trial {number}, of {count}."


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
    _note(axes, f"{_percent(value)}, trial {number}", (number, value), (0, 8), ha=ha, va="bottom", color=VERMILLION,
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
        return _notice(title, "Importances need at least 2 finished trials that differ in a parameter.")
    shown = ranked[:MOST_BARS]
    left_out = f" The {len(ranked) - len(shown)} smallest are left out." if len(ranked) > len(shown) else ""
    figure = _figure(title, "Relative importance for the validation accuracy." + left_out)
    _draw_bars(figure.subplots(), shown)
    return _png(figure)


def rank(importances: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The finite importances, largest first, equal ones by name."""
    return sorted((pair for pair in importances if math.isfinite(pair[1])), key=lambda pair: (-pair[1], pair[0]))


def _draw_bars(axes: Axes, ranked: Sequence[tuple[str, float]]) -> None:
    rows = range(len(ranked))
    values = [value for _, value in ranked]
    size = _row_size(len(ranked))
    axes.barh(rows, values, height=0.58, color=BLUE, linewidth=0)
    for row, value in enumerate(values):
        _note(axes, f"{value:.3f}", (max(value, 0.0), row), (5, 0), fontsize=size)
    spare = max(0.0, 5 - len(ranked)) / 2  # a single bar does not fill the figure
    axes.set_ylim(len(ranked) - 0.5 + spare, -0.5 - spare)
    axes.set_xlim(min(0.0, *values), 1.08 * max(0.0, *values) or 1.0)
    axes.set_yticks(rows, [_shorten(name, 32) for name, _ in ranked], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GREY)


# --- parallel coordinates -------------------------------------------------------------------------


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
        return _notice(title, "The trials have no parameters." if complete or pruned else _nothing_yet(trials))
    if len(names) == 1 and not complete:
        return _notice(title, "No trial is complete yet.")
    step = 1 + (len(complete) + len(pruned) - 1) // MOST_LINES
    figure = _figure(title, _parallel_summary(complete, len(pruned), step))
    complete, pruned = complete[::-step][::-1], pruned[::step]  # the best stays
    parallel = [parallel_axis(name, [t.params.get(name) for t in (*pruned, *complete)]) for name in names]
    heights = np.stack([axis.positions for axis in parallel], axis=1)  # (trials, parameters)
    axes = figure.subplots()
    _frame(axes, len(names) if complete else len(names) - 1, bool((heights == BELOW).any()))
    heights = fanned(heights)
    _draw_lines(axes, heights[: len(pruned)], [to_rgba(GREY, _alpha(len(pruned)) / 2)] * len(pruned), [0.8])
    if complete:
        _draw_complete(axes, heights[len(pruned) :], [_value(trial) for trial in complete])
    for x, axis in enumerate(parallel):
        _draw_axis(axes, x, axis, len(names))
    return _png(figure)


def worst_first(trials: Iterable[TrialPoint]) -> list[TrialPoint]:
    """The complete trials, the best last; among equals the earlier is the better."""
    complete = [trial for trial in trials if trial.state == "complete" and math.isfinite(_value(trial))]
    return sorted(complete, key=lambda trial: (_value(trial), -trial.number))


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
    ticks = [(scale(mark), _number(mark)) for mark in marks]
    return ParallelAxis(name, positions, _thinned(ticks))


def objective_axis(values: Sequence[float]) -> ParallelAxis:
    """The axis of the accuracies, from `axis_floor`; those below it stand at the foot."""
    floor, top = axis_floor(values), max(values)
    scale = _linear_scale(floor, top)
    ticks = [(scale(mark), _percent_tick(round(mark, 4))) for mark in _round_marks(floor, top)]
    if min(values) < floor:
        ticks = [(0.0, f"\N{LESS-THAN OR EQUAL TO} {_percent(floor)}"), *ticks]
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
    clauses = [_count(len(complete), "complete trial") if complete else "No complete trial"]
    if complete:
        clauses.append(f"the best in orange: {_percent(_value(complete[-1]))}, trial {complete[-1].number}")
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
        _note(axes, label, (right, position), (4, 0), fontsize=8.5)


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
        _note(axes, _shorten(label, 18), (x, position), (-5, 0), ha="right", fontsize=size, color=color,
              bbox=_backing())  # fmt: skip


def _name_axis(axes: Axes, x: int, name: str, parameters: int) -> None:
    """The name over an axis; of many axes every second name is set higher."""
    lift = 13 if parameters > 8 and x % 2 else 0
    size = 9.5 if parameters <= 8 else 8
    _note(axes, _shorten(name, 18), (x, 1 + FAN / 2), (0, 4 + lift), ha="center", va="bottom", fontsize=size,
          fontweight="bold")  # fmt: skip


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
        return _notice(title, _nothing_yet(trials, "placement"))
    values = [value for row in rows for value in (*row.complete, *row.pruned)]
    floor = axis_floor(values)
    has_marks = any(len(row.complete) > 1 for row in rows)
    has_complete = any(row.complete for row in rows)
    figure = _figure(title, "Sorted by the median of the complete trials." if has_complete else "No complete trial.")
    axes = figure.subplots()
    _style(axes, "", "x")
    axes.set_xlabel("validation accuracy", fontsize=10, color=SOFT_INK)
    _round_ticks(axes.xaxis, _percent_tick)
    axes.set_xlim(*limits([floor, max(values)], margin=0.05))
    _set_rows(axes, [row.placement for row in rows])
    for height, row in enumerate(rows):
        for state, points in (("pruned", row.pruned), ("complete", row.complete)):
            _draw_strip(axes, height, points, floor, state, len(values))
        _draw_statistics(axes, height, row, _row_size(len(rows)))
    _legend(
        figure,
        (_dot("o", BLUE, BLUE), "complete", has_complete),
        (_dot("o", "white", GREY), "pruned", any(row.pruned for row in rows)),
        (_dot("<", "white", SOFT_INK), f"below {_percent(floor)}", min(values) < floor),
        (_dot("|", INK, INK, 11), "median", has_marks),
        (_dot("D", "white", INK), "mean", has_marks),
    )
    return _png(figure)


def by_placement(trials: Iterable[TrialPoint]) -> list[PlacementRow]:
    """The placements that have a value, the highest median of complete trials first, those without one last."""
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if "placement" in trial.params and trial.state in ("complete", "pruned") and math.isfinite(_value(trial)):
            group = groups.setdefault(str(trial.params["placement"]), ([], []))
            group[trial.state == "pruned"].append(_value(trial))
    rows = [PlacementRow(name, tuple(complete), tuple(pruned)) for name, (complete, pruned) in groups.items()]
    return sorted(rows, key=lambda row: (-np.median(row.complete) if row.complete else math.inf, row.placement))


def jitter(count: int) -> list[float]:
    """Offsets in [-0.5, 0.5) that spread evenly however many there are: multiples of the golden ratio."""
    return [(i * (math.sqrt(5) - 1) / 2 + 0.5) % 1 - 0.5 for i in range(count)]


def _set_rows(axes: Axes, names: Sequence[str]) -> None:
    spare = max(0.0, 3 - len(names)) / 2  # a single row does not fill the figure
    axes.set_ylim(len(names) - 0.5 + spare, -0.5 - spare)
    axes.set_yticks(range(len(names)), [_shorten(name, 24) for name in names], parse_math=False)
    axes.tick_params(axis="y", labelsize=_row_size(len(names)), labelcolor=INK)
    for height in range(1, len(names)):
        axes.axhline(height - 0.5, color=GRID, linewidth=0.8, zorder=0)
    for text, right in zip(("mean", "median", "n"), COLUMNS, strict=True):
        _note(axes, text, (1, 1), (right, 4), "axes fraction", ha="right", va="bottom", color=SOFT_INK)


def _draw_strip(axes: Axes, height: int, values: Sequence[float], floor: float, state: str, count: int) -> None:
    points = [(value, height + 0.56 * offset) for value, offset in zip(values, jitter(len(values)), strict=True)]
    _draw_dots(axes, [point for point in points if point[0] >= floor], state, "o", count)
    _draw_dots(axes, [(axes.get_xlim()[0], y) for x, y in points if x < floor], state, "<", count)


def _draw_statistics(axes: Axes, height: int, row: PlacementRow, size: float) -> None:
    texts = ("\N{EN DASH}", "\N{EN DASH}", "0")
    if row.complete:
        mean, median = float(np.mean(row.complete)), float(np.median(row.complete))
        texts = (_percent(mean), _percent(median), str(len(row.complete)))
    if len(row.complete) > 1:
        axes.plot([median, median], [height - 0.36, height + 0.36], color=INK, linewidth=2, zorder=2.5)
        axes.plot([mean], [height], "D", markersize=6.5, markerfacecolor="white", markeredgecolor=INK, zorder=6)
    for text, right in zip(texts, COLUMNS, strict=True):
        _note(axes, text, (1, height), (right, 0), ("axes fraction", "data"), ha="right", fontsize=size)


# --- what the figures share -----------------------------------------------------------------------


def _figure(title: str, summary: str) -> Figure:
    """An empty figure with its heading and, below that, one sentence."""
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.83), w_pad=0.08, h_pad=0.04, wspace=0.04)
    figure = Figure(figsize=(10, 4.5), dpi=DPI, facecolor="white", layout=layout)
    figure.text(0.02, 0.925, _shorten(title, 90), fontsize=13, fontweight="bold", color=INK, va="baseline",
                parse_math=False)  # fmt: skip
    figure.text(0.02, 0.868, summary, fontsize=10, color=SOFT_INK, va="baseline")
    return figure


def _notice(title: str, reason: str) -> bytes:
    """A figure that says why it shows nothing."""
    figure = _figure(title, "")
    figure.text(0.5, 0.45, reason, fontsize=12, color=SOFT_INK, ha="center", va="center_baseline")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with _DRAWING:
        canvas = FigureCanvasAgg(figure)
        for text in figure.texts:
            _fit(text, 0.96 * figure.bbox.width)
        canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _fit(text: Text, width: float) -> None:
    """Cut `text` to `width` pixels."""
    while len(text.get_text()) > 5 and text.get_window_extent().width > width:
        text.set_text(text.get_text()[:-4] + "\N{HORIZONTAL ELLIPSIS}")


def _style(axes: Axes, title: str, grid: Literal["x", "y", "both"]) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=SOFT_INK, pad=8)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=SOFT_INK, labelsize=9.5, length=3)


def _round_ticks(axis: Axis, label: Callable[[float, int], str]) -> None:
    axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(label))


def _whole_numbers(axes: Axes, name: str, first: float, last: float) -> None:
    pad = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - pad, last + pad)
    marks = MaxNLocator(9, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]).tick_values(first, last)
    axes.set_xticks([mark for mark in marks if first <= mark <= last])
    axes.set_xlabel(name, fontsize=10, color=SOFT_INK)


def _draw_dots(axes: Axes, points: Sequence[tuple[float, float]], state: str, marker: str, count: int) -> None:
    """Dots, smaller the more of them the figure holds."""
    size = 36 if count <= 80 else 22 if count <= 300 else 12
    fill, edge = (BLUE, "white") if state == "complete" else ("white", GREY)
    axes.scatter([x for x, _ in points], [y for _, y in points], s=size, marker=marker, facecolors=fill,
                 edgecolors=edge, linewidths=0.5 if state == "complete" else 1, zorder=3, clip_on=False)  # fmt: skip


def _row_size(rows: int) -> float:
    """The font size at which so many rows do not touch."""
    return 9.5 if rows <= 14 else 7.5 if rows <= 24 else 5.5


def _dot(marker: str, fill: str, edge: str, size: float = 6) -> Line2D:
    """A marker of the legend."""
    return Line2D([], [], linestyle="", marker=marker, markersize=size, markerfacecolor=fill, markeredgecolor=edge,
                  markeredgewidth=2 if marker == "|" else 1.2)  # fmt: skip


def _legend(figure: Figure, *entries: tuple[Line2D, str, bool]) -> None:
    """A legend, at the height of the sentence, of the entries that are shown."""
    shown = [(handle, label) for handle, label, is_shown in entries if is_shown]
    handles, labels = zip(*shown, strict=True)
    figure.legend(handles, labels, loc="center right", bbox_to_anchor=(0.985, 0.8765), ncols=len(shown), frameon=False,
                  fontsize=9.5, labelcolor=SOFT_INK, handlelength=1.2, handletextpad=0.5, columnspacing=1.4,
                  borderpad=0)  # fmt: skip


def _note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str | tuple[str, str] = "data",
    **style: Any,
) -> None:
    """A text, `offset` points from `at`."""
    style = {"va": "center_baseline", "fontsize": 9.5, "color": INK, **style}
    axes.annotate(text, at, offset, coordinates, "offset points", annotation_clip=False, parse_math=False, zorder=6,
                  **style)  # fmt: skip


def _backing() -> dict[str, Any]:
    """The box that keeps a text readable over lines."""
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}


def _value(trial: TrialPoint) -> float:
    return math.nan if trial.value is None else trial.value


def _points(trials: Iterable[TrialPoint], state: str) -> list[tuple[int, float]]:
    """Number and value of the trials of one state that have a finite value, by number."""
    return sorted((t.number, _value(t)) for t in trials if t.state == state and math.isfinite(_value(t)))


def _nothing_yet(trials: Sequence[TrialPoint], parameter: str = "") -> str:
    if not trials:
        return "The study has no trials yet."
    if parameter and all(parameter not in trial.params for trial in trials):
        return f"No trial has the parameter {parameter}."
    return f"Of {_count(len(trials), 'trial')} none has reported a validation accuracy yet."


def _finite(values: Iterable[float]) -> Array:
    """The values with NaN, which leaves a hole in a line, for what is not finite."""
    array = np.array(list(values), dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _shorten(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _percent_tick(value: float, _: int = 0) -> str:
    return f"{100 * value:.6g}%"


def _plain_tick(value: float, _: int = 0) -> str:
    return f"{value:.6g}"


def _number(value: float) -> str:
    """As a user writes it: 128, 0.3, 1e-3."""
    if value == round(value) and abs(value) < 1e6:
        return str(round(value))
    if abs(value) >= 0.05:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
