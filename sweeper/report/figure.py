"""The parts that all matplotlib figures share: canvas, colours, headings, legends, and numbers as text.

Colours are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/), which colour-blind readers tell apart.
No text is parsed as mathematics: a study may be called "$5".
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sweeper.core.metric import Metric

BLUE: Final = "#0072B2"  # validation
ORANGE: Final = "#E69F00"  # training
VERMILLION: Final = "#D55E00"  # the best
INK: Final = "#1F2328"
SOFT_INK: Final = "#57606A"
GREY: Final = "#8C959F"  # pruned
GRID: Final = "#E7EAEE"
DPI: Final = 150

Array: TypeAlias = npt.NDArray[Any]

# Figures share font caches, so drawing in threads needs a lock.
_DRAWING: Final = threading.Lock()


def new_figure(title: str, summary: str, height: float = 4.5) -> Figure:
    """Return an empty figure, `height` inches high, with a heading and one sentence below it."""
    rect = (0.01, 0.01, 0.98, 0.99 - 0.72 / height)
    layout = ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.04, wspace=0.04)
    figure = Figure(figsize=(10, height), dpi=DPI, facecolor="white", layout=layout)
    figure.text(0.02, 1 - 0.3375 / height, shorten(title, 90), fontsize=13, fontweight="bold", color=INK, va="baseline",
                parse_math=False)  # fmt: skip
    figure.text(0.02, 1 - 0.594 / height, summary, fontsize=10, color=SOFT_INK, va="baseline")
    return figure


def notice(title: str, reason: str) -> bytes:
    """Draw a figure that says why there is nothing to show."""
    figure = new_figure(title, "")
    figure.text(0.5, 0.45, reason, fontsize=12, color=SOFT_INK, ha="center", va="center_baseline")
    return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """Draw `figure` as a PNG image; headings wider than it are cut."""
    buffer = io.BytesIO()
    with _DRAWING:
        canvas = FigureCanvasAgg(figure)
        for text in figure.texts:
            while len(text.get_text()) > 5 and text.get_window_extent().width > 0.96 * figure.bbox.width:
                text.set_text(text.get_text()[:-4] + "\N{HORIZONTAL ELLIPSIS}")
        canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def decorate(axes: Axes, title: str, grid: Literal["x", "y", "both"]) -> None:
    """Give `axes` the common look."""
    axes.set_title(title, loc="left", fontsize=10, color=SOFT_INK, pad=8)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=SOFT_INK, labelsize=9.5, length=3)


def round_ticks(axis: Axis, label: Callable[[float, int], str]) -> None:
    """Put ticks at round numbers, written by `label`."""
    axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(label))


def whole_numbers(axes: Axes, name: str, first: float, last: float) -> None:
    """Make the x axis one of whole numbers, with a little room at its ends."""
    pad = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - pad, last + pad)
    marks = MaxNLocator(9, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]).tick_values(first, last)
    axes.set_xticks([mark for mark in marks if first <= mark <= last])
    axes.set_xlabel(name, fontsize=10, color=SOFT_INK)


def row_size(rows: int) -> float:
    """Return the font size at which `rows` rows do not touch."""
    return 9.5 if rows <= 14 else 7.5 if rows <= 24 else 5.5


def dot(marker: str, fill: str, edge: str, size: float = 6) -> Line2D:
    """Return a marker for a legend."""
    return Line2D([], [], linestyle="", marker=marker, markersize=size, markerfacecolor=fill, markeredgecolor=edge,
                  markeredgewidth=2 if marker == "|" else 1.2)  # fmt: skip


def add_legend(figure: Figure, *entries: tuple[Line2D | Patch, str, bool], at_foot: bool = False) -> None:
    """Add a legend of the entries that are shown, next to the sentence in the heading or at the figure's foot."""
    handles, labels = zip(*((handle, label) for handle, label, is_shown in entries if is_shown), strict=True)
    height = 0.0 if at_foot else 1 - 0.55575 / figure.get_figheight()
    figure.legend(handles, labels, loc="lower center" if at_foot else "center right",
                  bbox_to_anchor=(0.5 if at_foot else 0.985, height), ncols=len(handles), frameon=False,
                  fontsize=9.5, labelcolor=SOFT_INK, handlelength=1.2, handletextpad=0.5, columnspacing=1.4,
                  borderpad=0)  # fmt: skip


def add_note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str | tuple[str, str] = "data",
    **style: Any,
) -> None:
    """Write `text`, `offset` points from `at`."""
    style = {"va": "center_baseline", "fontsize": 9.5, "color": INK, **style}
    axes.annotate(text, at, offset, coordinates, "offset points", annotation_clip=False, parse_math=False, zorder=6,
                  **style)  # fmt: skip


def backing() -> dict[str, Any]:
    """Return the style of a box that keeps a text readable over lines."""
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}


def axis_ends(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """Return the ends of an axis of a metric's values: outliers among the worse ones lie outside (`axis_floor`)."""
    if metric.maximized:
        return axis_floor(values), max(values)
    return min(values), -axis_floor([-value for value in values])


def axis_title(metric: Metric) -> str:
    """Return the name of a metric with its unit, if its ticks do not show that."""
    return metric.words if metric.unit in ("", "%") else f"{metric.words} ({metric.unit})"


def axis_floor(values: Sequence[float]) -> float:
    """Return the smallest value that is not an outlier, where an axis of accuracies starts.

    An outlier is more than 1.5 interquartile ranges below the lower quartile (Tukey 1977). One
    diverged trial at 10% would otherwise squeeze all others into a line at the top.
    """
    lower, upper = np.quantile(values, (0.25, 0.75))
    return min(value for value in values if value >= lower - 1.5 * (upper - lower))


def shorten(text: str, most: int) -> str:
    """Return `text` as one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 trial, 2 trials."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(value: float) -> str:
    """Format a share as percent, with two decimals."""
    return f"{100 * value:.2f}%"


def written(value: float, metric: Metric) -> str:
    """Format a metric value: as percent, or with four decimals."""
    return percent(value) if metric.unit == "%" else f"{value:.4f}"


def percent_tick(value: float, _: int = 0) -> str:
    """Format a share as percent, without trailing zeros."""
    return f"{100 * value:.6g}%"


def plain_tick(value: float, _: int = 0) -> str:
    """Format a number, without trailing zeros."""
    return f"{value:.6g}"


def tick_of(metric: Metric) -> Callable[[float, int], str]:
    """Return the function that formats the ticks of an axis of a metric."""
    return percent_tick if metric.unit == "%" else plain_tick


def is_room_above(values: Sequence[float], low: float, high: float) -> bool:
    """Return True if the finite `values` leave more room up to `high` than down to `low`."""
    finite = [value for value in values if math.isfinite(value)]
    return not finite or high - max(finite) >= min(finite) - low


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Return the range of the finite values, widened at both ends by `margin` of it; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = margin * (high - low) or max(0.01 * abs(high), 0.005)
    return low - pad, high + pad
