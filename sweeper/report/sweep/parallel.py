"""Parallel coordinates: one axis for each parameter, one line for each trial, ending at its value.

Plotly's own trace for them builds code at run time, which the page's policy forbids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from sweeper.core.metric import Metric
from sweeper.report.figure import VERMILLION, axis_ends, written
from sweeper.report.page import PALETTE
from sweeper.report.sweep.charts import one_trace, placement_order, shown
from sweeper.report.sweep.rows import SweptTrial

LOG_SCALED: Final = frozenset({"batch_size", "lr", "weight_decay"})
BELOW: Final = -0.15  # height of the trials that lack an axis's parameter
TICKS_APART: Final = 0.06  # of an axis, so that two labels do not touch
SHADES: Final = tuple(PALETTE[f"ramp-{i}"][0] for i in range(4))  # worst to best


class Axis(NamedTuple):
    """One axis, from 0 at its foot to 1 at its head."""

    name: str
    heights: list[float]  # one for each trial; BELOW where the trial lacks the parameter
    ticks: dict[float, str]


def parallel(ranked: Sequence[SweptTrial], metric: Metric) -> go.Figure:
    """Draw complete trials, best first, as lines through their parameters to their values; darker is better."""
    names = dict.fromkeys(name for trial in sorted(ranked, key=lambda t: t.number) for name in trial.params)
    axes = [parameter_axis(name, [trial.params.get(name) for trial in ranked]) for name in names]
    axes.append(metric_axis([trial.score for trial in ranked], metric))
    lines = [(trial, [*enumerate(axis.heights[i] for axis in axes)]) for i, trial in enumerate(ranked)]
    figure = go.Figure()
    for shade, color in enumerate(SHADES):
        group = [line for line, height in zip(lines, axes[-1].heights, strict=True) if _shade(height) == shade]
        _add_lines(figure, [line for line in group if line is not lines[0]], metric, {"color": color, "width": 1.3})
    _add_lines(figure, lines[:1], metric, {"color": VERMILLION, "width": 3})
    for x, axis in enumerate(axes):
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line={"color": PALETTE["grey"][0], "width": 1})
        for y, label in axis.ticks.items():
            figure.add_annotation(x=x, y=y, text=label, showarrow=False, xanchor="right", xshift=-5)
    figure.update_xaxes(tickvals=list(range(len(axes))), ticktext=[axis.name for axis in axes],
                        showgrid=False, ticks="", range=[-0.7, len(axes) - 0.6])  # fmt: skip
    figure.update_yaxes(visible=False, range=[BELOW - 0.1, 1.05])
    figure.update_layout(showlegend=False, height=440)
    return figure


def parameter_axis(name: str, values: Sequence[Any]) -> Axis:
    """Lay out the axis of one parameter, of which at least one value is not None.

    Words stand at equal distances. Numbers are to scale, which is logarithmic for those in `LOG_SCALED`.
    """
    known = {value for value in values if value is not None}
    is_words = any(isinstance(value, str) for value in known)
    if is_words:
        words = sorted(known, key=lambda word: (placement_order(str(word)), str(word)), reverse=True)
        scaled = {word: float(i) for i, word in enumerate(words)}
    else:
        logarithmic = name in LOG_SCALED and all(value > 0 for value in known)
        scaled = {value: math.log(value) if logarithmic else float(value) for value in sorted(known)}
    ends = min(scaled.values()), max(scaled.values())
    heights = {value: _share(number, *ends) for value, number in scaled.items()}
    marked = list(heights)
    if not is_words and any(b - a < TICKS_APART for a, b in itertools.pairwise(heights.values())):
        marked = [marked[0], marked[-1]]
    lacking = {BELOW: "none"} if None in values else {}
    ticks = {heights[value]: shown(value) for value in marked} | lacking
    return Axis(name, [heights.get(value, BELOW) for value in values], ticks)


def metric_axis(values: Sequence[float], metric: Metric) -> Axis:
    """Lay out the axis of a metric, the best value at its head; bad outliers stand at its foot."""
    foot, head = sorted(axis_ends(values, metric), key=metric.cost, reverse=True)
    heights = [max(0.0, _share(value, foot, head)) for value in values]
    return Axis(metric.noun, heights, {_share(end, foot, head): written(end, metric) for end in (foot, head)})


def _share(value: float, foot: float, head: float) -> float:
    return (value - foot) / (head - foot) if head != foot else 0.5


def _shade(height: float) -> int:
    return min(len(SHADES) - 1, int(height * len(SHADES)))


def _add_lines(
    figure: go.Figure, lines: Sequence[tuple[SweptTrial, Any]], metric: Metric, line: dict[str, Any]
) -> None:  # fmt: skip
    if lines:
        figure.add_scatter(**one_trace(lines, metric), mode="lines+markers", line=line, marker={"size": 4},
                           hovertemplate="%{text}<extra></extra>")  # fmt: skip
