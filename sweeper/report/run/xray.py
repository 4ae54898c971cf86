"""The figure of a run's X-ray, drawn from the JSON of sweeper/core/xray.py. docs/explanation/xray.md explains it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    SOFT_INK,
    VERMILLION,
    Array,
    add_legend,
    add_note,
    as_png,
    decorate,
    dot,
    new_figure,
    notice,
    row_size,
)

SPIKE: Final = 3.0  # bins are cut off at this multiple of the fifth highest


class Row(NamedTuple):
    """One BatchNorm layer in the left half; NaN where a value is missing."""

    position: str
    ratio: float
    spread: tuple[float, float]
    floor: float
    closed_form: float
    signed: float


def figure(found: Mapping[str, Any], title: str) -> bytes:
    """Draw the variance shift of each BatchNorm layer, and the activations before and after it.

    Args:
        found: the X-ray, as `XRay.json` writes it.
        title: the heading.

    Returns:
        A PNG image.
    """
    rows = shifts(found["layers"])
    if not rows:
        return notice(title, "The network has no BatchNorm.")
    canvas = new_figure(title, _summary(rows))
    engine = canvas.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.01, 0.07, 0.98, 0.77))  # the legend is below
    down, across = min(len(rows), 2), math.ceil(len(rows) / 2)
    grid = canvas.add_gridspec(down, 1 + across, width_ratios=[max(1.3, 0.9 * across), *[1] * across])
    _draw_shifts(canvas.add_subplot(grid[:, 0]), rows, row_size(len(rows)))
    for index, layer in enumerate(found["layers"]):
        row, column = divmod(index, across)
        _draw_activations(canvas.add_subplot(grid[row, 1 + column]), layer)
    add_legend(
        canvas,
        *_legend(rows),
        (Patch(facecolor=ORANGE, alpha=0.5), "before BN", True),
        (Patch(facecolor=BLUE, alpha=0.5), "after BN", True),
        at_foot=True,
    )
    return as_png(canvas)


def shift_figure(layers: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the variance shift of each BatchNorm layer over its noise floor, one row per layer.

    Args:
        layers: those of an X-ray, as `XRay.json` writes them.
        title: the heading.
    """
    rows = shifts(layers)
    canvas = new_figure(title, _summary(rows) if rows else "", max(3.0, 1.9 + 0.24 * len(rows)))
    if not rows:
        canvas.text(0.5, 0.45, "No BatchNorm layer was examined.", fontsize=12, color=SOFT_INK, ha="center")
        return canvas
    engine = canvas.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    height = canvas.get_figheight()
    engine.set(rect=(0.01, 0.32 / height, 0.98, 1 - 1.05 / height))
    _draw_shifts(canvas.add_subplot(), rows, row_size(0))
    add_legend(canvas, *_legend(rows), at_foot=True)
    return canvas


def shifts(layers: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of the left half, in the order of the network."""
    return [
        Row(
            str(layer["position"]),
            _number(layer["ratio"]),
            (_number(layer["spread"][0]), _number(layer["spread"][1])),
            _number(layer["floor"]),
            _number(layer["closed_form"]),
            _number(layer["signed"]),
        )
        for layer in layers
    ]


def outline(side: Mapping[str, Any]) -> tuple[Array, Array]:
    """Return the histogram of one side of a layer, as densities and the edges of their bins."""
    edges = np.linspace(side["low"], side["high"], len(side["shares"]) + 1)
    return np.array(side["shares"]) / (edges[1] - edges[0]), edges


def height(densities: Sequence[float]) -> float:
    """Return the end of an axis of densities, above the highest bin unless that is a spike, as of a ReLU's zeros."""
    ranked = sorted(densities, reverse=True)
    return 1.08 * (min(ranked[0], SPIKE * ranked[4]) or ranked[0])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _summary(rows: Sequence[Row]) -> str:
    ratios, floors = _finite(row.ratio for row in rows), _finite(row.floor for row in rows)
    if not ratios:
        return "No channel has a variance to compare."
    noise = f", {np.mean(floors):.3f} from the noise of batches alone" if floors else ""
    side = "less" if sum(_finite(row.signed for row in rows)) < 0 else "more"
    return (
        f"Variance-shift ratio {np.mean(ratios):.3f} on average{noise}; evaluation meets {side} variance than training."
    )


def _legend(rows: Sequence[Row]) -> list[tuple[Line2D | Patch, str, bool]]:
    return [
        (dot("o", BLUE, "white", 7), "measured (line: 80% of channels)", True),
        (dot("D", "none", VERMILLION, 8), "closed form", any(math.isfinite(row.closed_form) for row in rows)),
        (Patch(color=GRID), "noise alone", True),
    ]


def _draw_shifts(axes: Axes, rows: Sequence[Row], size: float) -> None:
    decorate(axes, "Variance-shift ratio max(r/m, m/r), mean over channels", "x")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.position for row in rows], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.axvline(1, color=GREY, linewidth=1)
    for y, row in enumerate(rows):
        axes.fill_between([1, row.floor], y - 0.3, y + 0.3, color=GRID, linewidth=0)
        axes.plot(row.spread, [y, y], color=BLUE, linewidth=1.6, alpha=0.5, solid_capstyle="butt")
        axes.plot([row.ratio], [y], "o", color=BLUE, markersize=7, markeredgecolor="white", zorder=4)
        axes.plot([row.closed_form], [y], "D", markersize=10, markerfacecolor="none", markeredgecolor=VERMILLION,
                  markeredgewidth=1.6, zorder=5)  # fmt: skip
        add_note(axes, f"{row.ratio:.3f}", (1, y), (6, 0), ("axes fraction", "data"), fontsize=size)
    highest = max([1.0, *_finite(v for row in rows for v in (row.ratio, *row.spread, row.floor, row.closed_form))])
    room = 0.06 * max(highest - 1, 0.05)
    axes.set_xlim(1 - room, max(highest, 1.05) + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_activations(axes: Axes, layer: Mapping[str, Any]) -> None:
    decorate(axes, str(layer["position"]), "x")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelsize=8)
    shown = [(layer[name], color) for name, color in (("before", ORANGE), ("after", BLUE)) if layer[name]["shares"]]
    if not shown:
        add_note(axes, "not finite", (0.5, 0.5), (0, 0), "axes fraction", ha="center", color=SOFT_INK)
        return
    densities: list[float] = []
    for side, color in shown:
        density, edges = outline(side)
        densities += density.tolist()
        axes.stairs(density, edges, color=color, alpha=0.22, fill=True, linewidth=0)
        axes.stairs(density, edges, color=color, linewidth=1.3)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xlim(min(side["low"] for side, _ in shown), max(side["high"] for side, _ in shown))
    axes.set_ylim(0, height(densities))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    dead = [side["dead"] or 0.0 for side, _ in shown]
    if any(dead):
        text = "dead: " + " \N{RIGHTWARDS ARROW} ".join(f"{100 * share:.1f}%" for share in dead)
        add_note(axes, text, (1, 1), (0, 4), "axes fraction", ha="right", va="bottom", fontsize=8, color=SOFT_INK)
