"""The charts of a sweep that people explore: tuples in, plotly figures out.

A placement has the same colour in every chart. Vermillion is the best trial's, and no placement's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go

from sweeper.report.figure import (
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    SOFT_INK,
    VERMILLION,
    axis_floor,
    limits,
    percent,
    rounded,
)
from sweeper.report.page import GREEN, PAPER, PINK, SKY
from sweeper.report.sweep.rows import Champion, SweptTrial

PLACEMENT_COLORS: Final = {
    "none": GREY,
    "bn": SKY,
    "dropout": ORANGE,
    "bn-dropout": BLUE,
    "dropout-bn": GREEN,
    "bn-head-dropout": PINK,
    "ic": INK,
}
MOST_CURVES: Final = 20
MOST_PRUNED_CURVES: Final = 200
ACCURACY: Final = "val/accuracy"
METRIC_TITLES: Final = {ACCURACY: "validation accuracy", "val/loss": "validation loss (nats)"}


def describe(trial: SweptTrial) -> str:
    """A trial as the pointer shows it."""
    lines = [f"<b>trial {trial.number}</b>, {trial.state}"]
    if trial.value is not None:
        lines.append(percent(trial.value) + (f", loss {trial.loss:.3f}" if trial.loss is not None else ""))
    return "<br>".join([*lines, *(f"{name} {shown(value)}" for name, value in trial.params.items())])


def shown(value: float | int | str) -> str:
    """A parameter's value as a user writes it: bn, 128, 0.0474, 1e-4."""
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1 else rounded(float(value))


def color_of(trial: SweptTrial) -> str:
    """The colour of the trial's placement; blue where the study has one placement only."""
    return PLACEMENT_COLORS.get(str(trial.params.get("placement")), BLUE)


# --- curves ---------------------------------------------------------------------------------------


def curves(ranked: Sequence[SweptTrial], pruned: Sequence[SweptTrial], metric: str) -> go.Figure:
    """A metric against the epochs: the best trials in their placements' colours, the pruned ones faint.

    Args:
        ranked: complete trials, best first; the first `MOST_CURVES` are drawn.
        pruned: at most `MOST_PRUNED_CURVES` of them are drawn, evenly chosen.
        metric: `val/accuracy` or `val/loss`; an epoch without it is left out.
    """
    figure = go.Figure()
    best = [trial for trial in ranked[:MOST_CURVES] if any(metric in epoch for epoch in trial.epochs)]
    some = pruned[:: 1 + (len(pruned) - 1) // MOST_PRUNED_CURVES] if pruned else []
    xs, ys, _ = _joined(some, metric)
    if any(y is not None for y in ys):
        figure.add_scatter(x=xs, y=ys, mode="lines", line={"color": GREY, "width": 1}, opacity=0.35,
                           name="pruned", hoverinfo="skip")  # fmt: skip
    for placement, group in _by_placement(best[1:]).items():
        xs, ys, texts = _joined(group, metric)
        figure.add_scatter(x=xs, y=ys, text=texts, mode="lines", line={"color": color_of(group[0]), "width": 1.6},
                           name=placement, hovertemplate=_hover(metric))  # fmt: skip
    for trial in best[:1]:
        xs, ys, texts = _joined([trial], metric)
        figure.add_scatter(x=xs, y=ys, text=texts, mode="lines+markers", line={"color": VERMILLION, "width": 3},
                           marker={"size": 6}, name=f"best, {trial.number}",
                           hovertemplate=_hover(metric))  # fmt: skip
    figure.update_xaxes(title="epoch", tickformat="d")
    figure.update_yaxes(title=METRIC_TITLES[metric], range=_curve_range(best, metric))
    if metric == ACCURACY:
        figure.update_yaxes(tickformat=".0%")
    return figure


def _by_placement(trials: Iterable[SweptTrial]) -> dict[str, list[SweptTrial]]:
    groups: dict[str, list[SweptTrial]] = {}
    for trial in trials:
        groups.setdefault(str(trial.params.get("placement", "complete")), []).append(trial)
    return {name: groups[name] for name in sorted(groups, key=placement_order)}


def _joined(trials: Iterable[SweptTrial], metric: str) -> tuple[list[Any], list[Any], list[str]]:
    """Epochs, values and words of several trials as one line with gaps: one trace draws faster than many."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for trial in trials:
        points = [(epoch["epoch"], epoch[metric]) for epoch in trial.epochs if metric in epoch]
        xs += [x for x, _ in points] + [None]
        ys += [y for _, y in points] + [None]
        texts += [describe(trial)] * len(points) + [""]
    return xs, ys, texts


def _hover(metric: str) -> str:
    value = "%{y:.2%}" if metric == ACCURACY else "%{y:.4f}"
    return f"epoch %{{x}}: {value}<br>%{{text}}<extra></extra>"


def _curve_range(trials: Sequence[SweptTrial], metric: str) -> list[float] | None:
    """The range of the drawn curves without outliers, such as the first epochs of a slow starter."""
    values = [epoch[metric] for trial in trials for epoch in trial.epochs if math.isfinite(epoch.get(metric, math.nan))]
    if not values:
        return None
    if metric == ACCURACY:
        return list(limits([axis_floor(values), max(values)], 0.06))
    return list(limits([min(values), -axis_floor([-value for value in values])], 0.06))


# --- the search -----------------------------------------------------------------------------------


def _accuracy_axis(figure: go.Figure, accuracies: Sequence[float]) -> None:
    """The y axis of accuracies, without outliers below."""
    span = limits([axis_floor(accuracies), max(accuracies)], 0.08)
    figure.update_yaxes(title=METRIC_TITLES[ACCURACY], range=span, tickformat=".1%")


def placement_order(name: str) -> int:
    """The rank of a placement in legends and axes."""
    names = list(PLACEMENT_COLORS)
    return names.index(name) if name in names else len(names)


def time_accuracy(trials: Sequence[SweptTrial]) -> go.Figure:
    """Accuracy against the seconds of training, with the front of those that no faster trial reaches."""
    figure = go.Figure()
    timed = [t for t in trials if t.seconds]
    for placement, group in _by_placement(timed).items():
        marker = {"size": 8, "color": color_of(group[0]), "line": {"width": 0.8, "color": PAPER}}
        figure.add_scatter(x=[t.seconds for t in group], y=[t.value for t in group], text=[describe(t) for t in group],
                           mode="markers", name=placement, marker=marker,
                           hovertemplate="%{x:.1f} s<br>%{text}<extra></extra>")  # fmt: skip
    front = pareto(timed)
    figure.add_scatter(x=[t.seconds for t in front], y=[t.value for t in front], mode="lines", name="front",
                       line={"color": VERMILLION, "width": 1.5, "shape": "hv"}, hoverinfo="skip")  # fmt: skip
    figure.update_xaxes(title="seconds of training and evaluation", rangemode="tozero")
    _accuracy_axis(figure, [t.accuracy for t in timed])
    return figure


def pareto(trials: Iterable[SweptTrial]) -> list[SweptTrial]:
    """The trials that none which took no longer surpasses, fastest first."""
    front: list[SweptTrial] = []
    for trial in sorted(trials, key=lambda t: (t.seconds or 0.0, -t.accuracy)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return front


def pruned_epochs(trials: Sequence[SweptTrial], epochs: int) -> go.Figure:
    """How many trials were pruned after each of their `epochs` epochs."""
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
    """Counts by true and predicted class; the colour is of the errors alone, which the diagonal would drown."""
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
    """For each class: its images, the share of them that was recognised, and what it was most taken for."""
    rows = []
    for i, (name, counts) in enumerate(zip(champion.classes, champion.confusion, strict=True)):
        wrong = [(count, other) for count, other in zip(counts, champion.classes, strict=True) if other != name]
        most, other = max(wrong, default=(0, ""))
        total = sum(counts)
        rows.append((name, total, counts[i] / total if total else math.nan, f"{other} ({most})" if most else ""))
    return rows
