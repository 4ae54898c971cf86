"""The interactive charts of a sweep: tuples in, plotly figures out.

A placement has the same colour in every chart. Vermillion is reserved for the best trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from sweeper.core.metric import ACCURACY, Metric
from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    SOFT_INK,
    VERMILLION,
    axis_ends,
    axis_title,
    counted,
    limits,
    written,
)
from sweeper.report.page import BROWN, GREEN, OLIVE, PAPER, PINK, PURPLE, SKY
from sweeper.report.sweep.front import pareto
from sweeper.report.sweep.rows import Champion, Configuration, SweptTrial

PLACEMENT_COLORS: Final = {
    "none": GREY,
    "bn": SKY,
    "dropout": ORANGE,
    "bn-dropout": BLUE,
    "dropout-bn": GREEN,
    "bn-head-dropout": PINK,
    "ic": INK,
    "bn-dropout-last": PURPLE,
    "bn-dropout-add": BROWN,
    "bn-pool-dropout": OLIVE,
}
MOST_CURVES: Final = 20
MOST_PRUNED_CURVES: Final = 200
Line = Sequence[tuple[float | None, float | None]]


def describe(trial: SweptTrial, metric: Metric) -> str:
    """Describe a trial as the pointer shows it, with its value of a metric first."""
    known = [(each, value) for each in metric.with_others if (value := trial.of(each)) is not None]
    values = [(f"{each.noun} " if each != ACCURACY else "") + written(value, each) for each, value in known]
    lines = [f"<b>trial {trial.number}</b>, {trial.state}", *([", ".join(values)] if values else [])]
    return "<br>".join([*lines, *(f"{name} {shown(value)}" for name, value in trial.params.items())])


def shown(value: float | int | str) -> str:
    """Format a parameter's value as a user writes it: bn, 128, 0.0474, 1e-4."""
    if isinstance(value, str):
        return value
    if value == round(value) and abs(value) < 1e6:
        return str(round(value))
    if abs(value) >= 1e-3:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def placement_order(name: str) -> int:
    """Return the rank of a placement in legends and axes."""
    names = list(PLACEMENT_COLORS)
    return names.index(name) if name in names else len(names)


def color_of(trial: SweptTrial) -> str:
    """Return the colour of the trial's placement; blue if it has none."""
    return PLACEMENT_COLORS.get(str(trial.params.get("placement")), BLUE)


def one_trace(lines: Iterable[tuple[SweptTrial, Line]], metric: Metric) -> dict[str, list[Any]]:
    """Return x, y and text of one trace that draws a line for each trial: it is drawn faster than many traces."""
    trace: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for trial, line in lines:
        trace["x"] += [*(x for x, _ in line), None]
        trace["y"] += [*(y for _, y in line), None]
        trace["text"] += [*[describe(trial, metric)] * len(line), ""]
    return trace


# --- curves ---------------------------------------------------------------------------------------


def curves(ranked: Sequence[SweptTrial], pruned: Sequence[SweptTrial], metric: Metric) -> go.Figure:
    """Draw a metric against the epochs: the best trials in their placements' colours, pruned ones faint.

    Args:
        ranked: complete trials, best first; the first `MOST_CURVES` are drawn.
        pruned: at most `MOST_PRUNED_CURVES` of them are drawn, evenly chosen.
        metric: trials without it are left out.
    """
    figure = go.Figure()
    best = [trial for trial in ranked[:MOST_CURVES] if _curve(trial, metric)]
    some = [t for t in pruned[:: 1 + (len(pruned) - 1) // MOST_PRUNED_CURVES] if _curve(t, metric)] if pruned else []
    value = "%{y:.2%}" if metric.unit == "%" else "%{y:.4f}"
    hover = f"epoch %{{x}}: {value}<br>%{{text}}<extra></extra>"
    if some:
        figure.add_scatter(**one_trace(((t, _curve(t, metric)) for t in some), metric), mode="lines", opacity=0.35,
                           line={"color": GREY, "width": 1}, name="pruned", hoverinfo="skip")  # fmt: skip
    for placement, group in _by_placement(best[1:]).items():
        figure.add_scatter(**one_trace(((t, _curve(t, metric)) for t in group), metric), mode="lines", name=placement,
                           line={"color": color_of(group[0]), "width": 1.6}, hovertemplate=hover)  # fmt: skip
    if best:
        figure.add_scatter(**one_trace([(best[0], _curve(best[0], metric))], metric), mode="lines+markers",
                           marker={"size": 6}, name=f"best, {best[0].number}", line={"color": VERMILLION, "width": 3},
                           hovertemplate=hover)  # fmt: skip
    figure.update_xaxes(title="epoch", tickformat="d")
    figure.update_yaxes(title=axis_title(metric), range=_curve_range(best, metric),
                        tickformat=".0%" if metric.unit == "%" else "")  # fmt: skip
    return figure


def _curve(trial: SweptTrial, metric: Metric) -> Line:
    return [(epoch["epoch"], epoch[metric.name]) for epoch in trial.epochs if metric.name in epoch]


def _by_placement(trials: Iterable[SweptTrial]) -> dict[str, list[SweptTrial]]:
    groups: dict[str, list[SweptTrial]] = {}
    for trial in trials:
        groups.setdefault(str(trial.params.get("placement", "complete")), []).append(trial)
    return {name: groups[name] for name in sorted(groups, key=placement_order)}


def _curve_range(trials: Sequence[SweptTrial], metric: Metric) -> tuple[float, float] | None:
    """Return the range of the curves without outliers, such as the first epochs of a slow starter."""
    values = [y for trial in trials for _, y in _curve(trial, metric) if y is not None and math.isfinite(y)]
    return limits(axis_ends(values, metric), 0.06) if values else None


# --- the search -----------------------------------------------------------------------------------


def time_accuracy(timed: Sequence[Configuration], best: Sequence[Configuration]) -> go.Figure:
    """Draw the mean accuracy of configurations, which are judged by it, against their mean seconds.

    A line joins those that no faster one surpasses. Those of `best`, the front of accuracy, loss and time, have a ring.
    """
    figure = go.Figure()
    groups: dict[str, list[Configuration]] = {}
    for each in timed:
        groups.setdefault(str(each.trials[0].params.get("placement", "complete")), []).append(each)
    for placement in sorted(groups, key=placement_order):
        marker = {"size": 8, "color": color_of(groups[placement][0].trials[0]), "line": {"width": 0.8, "color": PAPER}}
        figure.add_scatter(**_places(groups[placement]), mode="markers", name=placement, marker=marker,
                           hovertemplate="%{x:.1f} s<br>%{text}<extra></extra>")  # fmt: skip
    ring = {"size": 13, "symbol": "circle-open", "color": VERMILLION, "line": {"width": 1.5}}
    figure.add_scatter(**_places(best), mode="markers", name="front", marker=ring, hoverinfo="skip")
    line = [timed[i] for i in pareto([(-each.standing.shrunken, each.seconds or 0.0) for each in timed])]
    figure.add_scatter(**_places(sorted(line, key=lambda each: each.seconds or 0.0)), mode="lines",
                       name="best by time", hoverinfo="skip",
                       line={"color": VERMILLION, "width": 1.5, "shape": "hv"})  # fmt: skip
    accuracies = [each.standing.shrunken for each in timed]
    figure.update_xaxes(title="seconds of training and evaluation", rangemode="tozero")
    figure.update_yaxes(title=axis_title(ACCURACY), tickformat=".1%",
                        range=limits(axis_ends(accuracies, ACCURACY), 0.08))  # fmt: skip
    return figure


def _places(configurations: Iterable[Configuration]) -> dict[str, list[Any]]:
    """Return x, y and text of a trace with a place for each configuration."""
    trace: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for each in configurations:
        first = each.trials[0]._replace(accuracy=each.standing.shrunken, loss=each.loss)
        trace["x"].append(each.seconds)
        trace["y"].append(each.standing.shrunken)
        trace["text"].append(f"{describe(first, ACCURACY)}<br>{counted(each.standing.n, 'seed')}")
    return trace


def pruned_epochs(trials: Sequence[SweptTrial], epochs: int) -> go.Figure:
    """Draw how many trials were pruned after each of their `epochs` epochs."""
    ends = [len(t.epochs) for t in trials]
    figure = go.Figure(
        go.Bar(x=list(range(1, epochs + 1)), y=[ends.count(epoch) for epoch in range(1, epochs + 1)],
               marker={"color": GREY}, hovertemplate="%{y} after epoch %{x}<extra></extra>")
    )  # fmt: skip
    figure.update_xaxes(title="pruned after epoch", tickformat="d", dtick=max(1, epochs // 12))
    figure.update_yaxes(title="trials", tickformat="d")
    figure.update_layout(height=240, bargap=0.4)
    return figure


# --- the champion ---------------------------------------------------------------------------------


def confusion(champion: Champion) -> go.Figure:
    """Draw counts by true and predicted class; only errors are coloured, as the diagonal would drown them."""
    size = range(len(champion.classes))
    errors = [[None if i == j else champion.confusion[i][j] for j in size] for i in size]
    right = [[champion.confusion[i][j] if i == j else None for j in size] for i in size]
    hover = "true %{y}<br>predicted %{x}<br>%{z} images<extra></extra>"
    shared: Mapping[str, Any] = {
        "x": champion.classes, "y": champion.classes, "xgap": 1, "ygap": 1, "showscale": False,
        "texttemplate": "%{z}", "hovertemplate": hover, "hoverongaps": False,
    }  # fmt: skip
    figure = go.Figure([
        go.Heatmap(z=right, colorscale=[[0, GRID], [1, GRID]], textfont={"color": SOFT_INK, "size": 11}, **shared),
        go.Heatmap(z=errors, colorscale=[[0, PAPER], [0.25, "#F7D9C4"], [1, VERMILLION]], zmin=0,
                   textfont={"color": INK, "size": 11}, **shared),
    ])  # fmt: skip
    figure.update_xaxes(title="predicted class", showgrid=False, ticks="", tickangle=-40)
    figure.update_yaxes(title="true class", showgrid=False, ticks="", autorange="reversed", ticklabelstandoff=4)
    figure.update_layout(height=520)
    return figure


def per_class(champion: Champion) -> list[tuple[str, int, float, str]]:
    """Return for each class its images, the share recognised, and the class it was most often taken for."""
    rows = []
    for i, (name, counts) in enumerate(zip(champion.classes, champion.confusion, strict=True)):
        wrong = [(count, other) for count, other in zip(counts, champion.classes, strict=True) if other != name]
        most, other = max(wrong, default=(0, ""))
        total = sum(counts)
        rows.append((name, total, counts[i] / total if total else math.nan, f"{other} ({most})" if most else ""))
    return rows
