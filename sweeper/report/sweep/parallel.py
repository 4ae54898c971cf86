"""Parallel coordinates: one axis for each parameter, one line for each trial, ending at its accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from sweeper.report.figure import VERMILLION, axis_floor, percent
from sweeper.report.page import PALETTE
from sweeper.report.sweep.charts import describe, placement_order, shown
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


def parallel(ranked: Sequence[SweptTrial], parameters: Sequence[str]) -> go.Figure:
    """Complete trials, best first, as lines through their parameters to their accuracy; the darker, the better."""
    axes = [parameter_axis(name, [trial.params.get(name) for trial in ranked]) for name in parameters]
    axes.append(accuracy_axis([trial.accuracy for trial in ranked]))
    figure = go.Figure()
    for shade in range(len(SHADES)):
        group = [i for i in range(1, len(ranked)) if _shade(axes[-1].heights[i]) == shade]
        if group:
            _add_lines(figure, axes, ranked, group, {"color": SHADES[shade], "width": 1.3})
    _add_lines(figure, axes, ranked, [0], {"color": VERMILLION, "width": 3})
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
    """The axis of one parameter: numbers to scale, logarithmic for those in `LOG_SCALED`, words at equal distances."""
    known = {value for value in values if value is not None}
    if any(isinstance(value, str) for value in known):
        words = sorted(map(str, known), key=lambda word: (placement_order(word), word), reverse=True)
        at = {word: _share(i, 0, len(words) - 1) for i, word in enumerate(words)}
        return _axis(name, [None if v is None else at[str(v)] for v in values], {h: w for w, h in at.items()})
    logarithmic = name in LOG_SCALED and all(value > 0 for value in known)
    scaled = {value: math.log(value) if logarithmic else float(value) for value in known}
    low, high = min(scaled.values()), max(scaled.values())
    place = {value: _share(number, low, high) for value, number in scaled.items()}
    heights = sorted(place.values())
    apart = all(upper - lower >= TICKS_APART for lower, upper in itertools.pairwise(heights))
    marked = known if apart else {min(known), max(known)}
    return _axis(name, [None if v is None else place[v] for v in values], {place[v]: shown(v) for v in marked})


def accuracy_axis(values: Sequence[float]) -> Axis:
    """The axis of the accuracies; outliers below stand at its foot."""
    low, high = axis_floor(values), max(values)
    heights = [max(0.0, _share(value, low, high)) for value in values]
    return Axis("accuracy", heights, {_share(low, low, high): percent(low), _share(high, low, high): percent(high)})


def _axis(name: str, heights: Sequence[float | None], ticks: dict[float, str]) -> Axis:
    lacking = {BELOW: "none"} if None in heights else {}
    return Axis(name, [BELOW if height is None else height for height in heights], ticks | lacking)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _shade(height: float) -> int:
    return min(len(SHADES) - 1, int(height * len(SHADES)))


def _add_lines(
    figure: go.Figure, axes: Sequence[Axis], trials: Sequence[SweptTrial], which: Sequence[int], line: dict[str, Any]
) -> None:
    """The trials `which` as one trace with gaps."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for i in which:
        xs += [*range(len(axes)), None]
        ys += [*(axis.heights[i] for axis in axes), None]
        texts += [describe(trials[i])] * len(axes) + [""]
    figure.add_scatter(x=xs, y=ys, text=texts, mode="lines+markers", line=line, marker={"size": 4},
                       hovertemplate="%{text}<extra></extra>")  # fmt: skip
