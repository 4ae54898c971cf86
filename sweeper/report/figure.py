"""What the figures share: canvas, colours, headings, legends, and the words for numbers.

Colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which colour-blind readers tell apart.
Text is never read as mathematics: a study may be called "$5".
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
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

BLUE: Final = "#0072B2"  # validation
ORANGE: Final = "#E69F00"  # training
VERMILLION: Final = "#D55E00"  # the best
INK: Final = "#1F2328"
SOFT_INK: Final = "#57606A"
GREY: Final = "#8C959F"  # pruned
GRID: Final = "#E7EAEE"
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


def new_figure(title: str, summary: str, height: float = 4.5) -> Figure:
    """An empty figure, `height` inches high, with its heading and, below that, one sentence."""
    rect = (0.01, 0.01, 0.98, 0.99 - 0.72 / height)
    layout = ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.04, wspace=0.04)
    figure = Figure(figsize=(10, height), dpi=DPI, facecolor="white", layout=layout)
    figure.text(0.02, 1 - 0.3375 / height, shorten(title, 90), fontsize=13, fontweight="bold", color=INK, va="baseline",
                parse_math=False)  # fmt: skip
    figure.text(0.02, 1 - 0.594 / height, summary, fontsize=10, color=SOFT_INK, va="baseline")
    return figure


def notice(title: str, reason: str) -> bytes:
    """A figure that says why it shows nothing."""
    figure = new_figure(title, "")
    figure.text(0.5, 0.45, reason, fontsize=12, color=SOFT_INK, ha="center", va="center_baseline")
    return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """Draw `figure`, its headings cut to its width."""
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


def decorate(axes: Axes, title: str, grid: Literal["x", "y", "both"]) -> None:
    """Give `axes` the common look."""
    axes.set_title(title, loc="left", fontsize=10, color=SOFT_INK, pad=8)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=SOFT_INK, labelsize=9.5, length=3)


def round_ticks(axis: Axis, label: Callable[[float, int], str]) -> None:
    """Ticks at round numbers."""
    axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(label))


def whole_numbers(axes: Axes, name: str, first: float, last: float) -> None:
    """An x axis of whole numbers, with a little room at its ends."""
    pad = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - pad, last + pad)
    marks = MaxNLocator(9, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]).tick_values(first, last)
    axes.set_xticks([mark for mark in marks if first <= mark <= last])
    axes.set_xlabel(name, fontsize=10, color=SOFT_INK)


def draw_dots(axes: Axes, points: Sequence[tuple[float, float]], state: str, marker: str, count: int) -> None:
    """Dots, smaller the more of them the figure holds."""
    size = 36 if count <= 80 else 22 if count <= 300 else 12
    fill, edge = (BLUE, "white") if state == "complete" else ("white", GREY)
    axes.scatter([x for x, _ in points], [y for _, y in points], s=size, marker=marker, facecolors=fill,
                 edgecolors=edge, linewidths=0.5 if state == "complete" else 1, zorder=3, clip_on=False)  # fmt: skip


def row_size(rows: int) -> float:
    """The font size at which so many rows do not touch."""
    return 9.5 if rows <= 14 else 7.5 if rows <= 24 else 5.5


def dot(marker: str, fill: str, edge: str, size: float = 6) -> Line2D:
    """A marker of the legend."""
    return Line2D([], [], linestyle="", marker=marker, markersize=size, markerfacecolor=fill, markeredgecolor=edge,
                  markeredgewidth=2 if marker == "|" else 1.2)  # fmt: skip


def add_legend(figure: Figure, *entries: tuple[Line2D, str, bool]) -> None:
    """A legend, at the height of the sentence, of the entries that are shown."""
    shown = [(handle, label) for handle, label, is_shown in entries if is_shown]
    handles, labels = zip(*shown, strict=True)
    height = 1 - 0.55575 / figure.get_figheight()
    figure.legend(handles, labels, loc="center right", bbox_to_anchor=(0.985, height), ncols=len(shown), frameon=False,
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
    """A text, `offset` points from `at`."""
    style = {"va": "center_baseline", "fontsize": 9.5, "color": INK, **style}
    axes.annotate(text, at, offset, coordinates, "offset points", annotation_clip=False, parse_math=False, zorder=6,
                  **style)  # fmt: skip


def backing() -> dict[str, Any]:
    """The box that keeps a text readable over lines."""
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}


def value_of(trial: TrialPoint) -> float:
    """The trial's accuracy, NaN where it has none."""
    return math.nan if trial.value is None else trial.value


def points_in(trials: Iterable[TrialPoint], state: str) -> list[tuple[int, float]]:
    """Number and value of the trials of one state that have a finite value, by number."""
    return sorted((t.number, value_of(t)) for t in trials if t.state == state and math.isfinite(value_of(t)))


def nothing_yet(trials: Sequence[TrialPoint], parameter: str = "") -> str:
    """Why a figure of `trials` shows nothing."""
    if not trials:
        return "The study has no trials yet."
    if parameter and all(parameter not in trial.params for trial in trials):
        return f"No trial has the parameter {parameter}."
    return f"Of {counted(len(trials), 'trial')} none has reported a validation accuracy yet."


def axis_floor(values: Sequence[float]) -> float:
    """Where an axis of accuracies starts: the smallest value that is no outlier.

    An outlier is more than 1.5 interquartile ranges below the lower quartile (Tukey 1977). One
    diverged trial at 10% would otherwise press all others into a line at the head.
    """
    lower, upper = np.quantile(values, (0.25, 0.75))
    return min(value for value in values if value >= lower - 1.5 * (upper - lower))


def only_finite(values: Iterable[float]) -> Array:
    """The values with NaN, which leaves a hole in a line, for what is not finite."""
    array = np.array(list(values), dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def shorten(text: str, most: int) -> str:
    """One line of `text`, of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def counted(count: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(value: float) -> str:
    """A share as percent, with two decimals."""
    return f"{100 * value:.2f}%"


def percent_tick(value: float, _: int = 0) -> str:
    """A share as percent, as short as it can be said."""
    return f"{100 * value:.6g}%"


def plain_tick(value: float, _: int = 0) -> str:
    """A number, as short as it can be said."""
    return f"{value:.6g}"


def rounded(value: float) -> str:
    """As a user writes it: 128, 0.3, 1e-3."""
    if value == round(value) and abs(value) < 1e6:
        return str(round(value))
    if abs(value) >= 0.05:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def is_room_above(values: Sequence[float], low: float, high: float) -> bool:
    """Whether the finite `values`, between `low` and `high`, leave more room above than below them."""
    finite = [value for value in values if math.isfinite(value)]
    return not finite or high - max(finite) >= min(finite) - low


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The range of the finite values, widened at both ends by `margin` of it; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = margin * (high - low) or max(0.01 * abs(high), 0.005)
    return low - pad, high + pad
