"""The metric over the search space: heat maps and contours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sweeper.core.metric import Metric
from sweeper.report.figure import INK, VERMILLION, Array, axis_ends, written
from sweeper.report.page import PAPER
from sweeper.report.sweep.charts import describe, placement_order, shown
from sweeper.report.sweep.parallel import LOG_SCALED, SHADES
from sweeper.report.sweep.rows import Sweep, SweptTrial, valued

BINS: Final = 5  # of a rate, in a heat map
GRID_STEPS: Final = 48  # of a contour, along each parameter
BANDWIDTH: Final = 0.12  # of the kernel, as a share of a parameter's range
LEAST_WEIGHT: Final = 0.35  # of trials near a point of a contour, below which it stays empty
FEWEST: Final = 8  # trials that make a contour
SCALE: Final = [[i / 3, shade] for i, shade in enumerate(SHADES)]


# --- placement by rate ----------------------------------------------------------------------------


class RateMap(NamedTuple):
    """The mean value by placement and bin of a rate."""

    placements: list[str]
    bins: list[str]
    means: Array  # (placements, bins), NaN where there is no trial
    counts: Array  # (placements, bins)


def rate_map(trials: Sequence[SweptTrial], rate: str) -> RateMap | None:
    """Sort the complete trials that have a placement and the rate into bins of equal width; None if there are none."""
    having = [t for t in trials if "placement" in t.params and rate in t.params]
    if not having:
        return None
    rates = np.array([float(t.params[rate]) for t in having])
    edges = np.linspace(rates.min(), rates.max(), BINS + 1) if np.ptp(rates) > 0 else np.array([rates[0], rates[0]])
    columns = np.clip(np.searchsorted(edges, rates, side="right") - 1, 0, len(edges) - 2)
    placements = sorted({str(t.params["placement"]) for t in having}, key=placement_order)
    rows = np.array([placements.index(str(t.params["placement"])) for t in having])
    shape = (len(placements), len(edges) - 1)
    counts, sums = np.zeros(shape, dtype=int), np.zeros(shape)
    np.add.at(counts, (rows, columns), 1)
    np.add.at(sums, (rows, columns), [t.score for t in having])
    means = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    bins = [f"{low:.2f}\N{EN DASH}{high:.2f}" for low, high in itertools.pairwise(edges)]
    return RateMap(placements, bins, means, counts)


def heat_map(cells: RateMap, metric: Metric, rate: str, span: tuple[float, float]) -> go.Figure:
    """Draw a `RateMap` of a metric, coloured over `span` of its values so that two maps compare."""
    texts = [[f"{written(mean, metric)}<br>n {n}" if n else "" for mean, n in zip(means, counts, strict=True)]
             for means, counts in zip(cells.means, cells.counts, strict=True)]  # fmt: skip
    figure = go.Figure(
        go.Heatmap(z=cells.means, x=cells.bins, y=cells.placements, zmin=span[0], zmax=span[1], colorscale=SCALE,
                   reversescale=not metric.maximized, text=texts, texttemplate="%{text}", textfont={"size": 11},
                   xgap=2, ygap=2, showscale=False, hoverongaps=False,
                   hovertemplate="%{y}, " + rate + " %{x}<br>%{text}<extra></extra>")
    )  # fmt: skip
    figure.update_xaxes(title=rate, type="category", showgrid=False, ticks="")
    figure.update_yaxes(type="category", showgrid=False, ticks="", autorange="reversed", ticklabelstandoff=6)
    figure.update_layout(height=110 + 52 * len(cells.placements))
    return figure


# --- contour --------------------------------------------------------------------------------------


def numeric_pair(sweep: Sweep) -> tuple[str, str] | None:
    """Return the two most important parameters that are numbers and that enough trials have together."""
    complete = valued(sweep.trials, "complete")
    names = [found.parameter for found in sweep.importances] or sweep.parameters
    numeric = [name for name in names if _is_numeric([t.params[name] for t in complete if name in t.params])]
    for second, first in sorted((b, a) for a, b in itertools.combinations(range(len(numeric)), 2)):
        pair = numeric[first], numeric[second]
        values = [(t.params[pair[0]], t.params[pair[1]]) for t in complete if all(n in t.params for n in pair)]
        if len(values) >= FEWEST and all(len(set(column)) > 1 for column in zip(*values, strict=True)):
            return pair
    return None


def _is_numeric(values: Sequence[Any]) -> bool:
    """Check that the values are numbers, and more than two."""
    return len(set(values)) > 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def contour(trials: Sequence[SweptTrial], metric: Metric, pair: tuple[str, str]) -> go.Figure:
    """Draw a metric over two parameters, smoothed, with the trials that have both, at least `FEWEST`."""
    having = sorted((t for t in trials if all(name in t.params for name in pair)), key=lambda t: -metric.cost(t.score))
    x, y = (Scale.of(name, [float(t.params[name]) for t in having]) for name in pair)
    values = [t.score for t in having]
    smooth = kernel_mean(x.unit, y.unit, np.clip(values, *axis_ends(values, metric)))
    figure = go.Figure([
        go.Contour(x=x.grid, y=y.grid, z=smooth, colorscale=SCALE, reversescale=not metric.maximized, ncontours=9,
                   line={"width": 0.5, "color": PAPER}, hoverinfo="skip",
                   colorbar={"tickformat": ".1%" if metric.unit == "%" else "", "outlinewidth": 0, "thickness": 12}),
        go.Scatter(x=x.values, y=y.values, text=[describe(t, metric) for t in having], mode="markers", cliponaxis=False,
                   marker={"size": 7, "color": [*[INK] * (len(having) - 1), VERMILLION],
                           "line": {"width": 1.2, "color": PAPER}},
                   showlegend=False, hovertemplate="%{text}<extra></extra>"),
    ])  # fmt: skip
    figure.update_xaxes(title=pair[0], showgrid=False, **x.layout)
    figure.update_yaxes(title=pair[1], showgrid=False, **y.layout)
    figure.update_layout(height=460)
    return figure


class Scale(NamedTuple):
    """The scale of one parameter of a contour."""

    values: list[float]
    unit: Array  # the values, scaled to [0, 1]
    grid: Array
    layout: dict[str, Any]

    @classmethod
    def of(cls, name: str, values: list[float]) -> Scale:
        """Lay out a scale, logarithmic for the parameters in `LOG_SCALED`."""
        logarithmic = name in LOG_SCALED and min(values) > 0
        scaled = np.log10(values) if logarithmic else np.array(values)
        low, high = scaled.min(), scaled.max()
        grid = np.linspace(low, high, GRID_STEPS)
        layout: dict[str, Any] = {"type": "log"} if logarithmic else {}
        if len(distinct := sorted(set(values))) <= 8:
            layout |= {"tickvals": distinct, "ticktext": [shown(value) for value in distinct]}
        return cls(values, (scaled - low) / (high - low), 10**grid if logarithmic else grid, layout)


def kernel_mean(x: Array, y: Array, values: Array) -> Array:
    """Smooth `values` over the unit square by kernel regression (Nadaraya 1964, Watson 1964).

    Returns:
        `(GRID_STEPS, GRID_STEPS)`, rows along `y`; NaN where the Gaussian weights sum to less than `LEAST_WEIGHT`.
    """
    steps = np.linspace(0, 1, GRID_STEPS)
    weight_x = np.exp(-((steps[:, None] - x) ** 2) / (2 * BANDWIDTH**2))  # (steps, trials)
    weight_y = np.exp(-((steps[:, None] - y) ** 2) / (2 * BANDWIDTH**2))
    weights = weight_y @ weight_x.T  # (steps of y, steps of x)
    sums = (weight_y * values) @ weight_x.T
    mean: Array = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights >= LEAST_WEIGHT)
    return mean
