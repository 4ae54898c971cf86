"""The charts of the reproduction: the article's figures 4 to 11 on common axes, and all arms beside one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweeper.replication.claims.ledger import Runs
from sweeper.replication.runs import ArmRun, complete
from sweeper.report.figure import BLUE, INK, ORANGE, SOFT_INK, VERMILLION, axis_floor, limits, percent
from sweeper.report.page import PAPER

METRICS: Final = ("accuracy", "loss")
SPLITS: Final = {"train": ORANGE, "val": BLUE}
BANDS: Final = {ORANGE: "rgba(230,159,0,0.22)", BLUE: "rgba(0,114,178,0.22)"}  # translucent, for the range of the seeds


class Published(NamedTuple):
    """The article's report on one of its experiments."""

    figure: int
    words: str
    accuracy: float | None = None


PUBLISHED: Final = {
    1: Published(4, "at its capacity; more training widens the gap"),
    2: Published(5, "overfits quickly, still better than 1"),
    3: Published(6, "better than 2; generalises"),
    4: Published(7, "accuracy and loss improve; still overfits"),
    5: Published(8, "accuracy about as 4, loss better, overfits more slowly"),
    6: Published(9, "accuracy +0.001, loss much better, overfits again"),
    7: Published(10, "best so far; losses fall to the last epoch; tiny gap"),
    8: Published(11, "best: 0.948", 0.948),
}


def complete_experiments(runs: Runs) -> dict[int, list[ArmRun]]:
    """The complete runs of those of the eight experiments that have one."""
    found = {number: complete(runs.get(f"exp{number}", [])) for number in PUBLISHED}
    return {number: of_arm for number, of_arm in found.items() if of_arm}


class Curve(NamedTuple):
    """A metric by epoch over the seeds of an arm."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(runs: Sequence[ArmRun], metric: str) -> Curve:
    """Mean, lowest and highest value of `metric` over `runs`, of at least one epoch, which all have equally many."""
    columns = list(zip(*([epoch[metric] for epoch in run.epochs] for run in runs), strict=True))
    return Curve(
        epochs=[int(epoch["epoch"]) for epoch in runs[0].epochs],
        mean=[fmean(column) for column in columns],
        low=[min(column) for column in columns],
        high=[max(column) for column in columns],
    )


class Ranges(NamedTuple):
    """The axes that all figures share."""

    epochs: tuple[float, float]
    accuracy: tuple[float, float]
    loss: tuple[float, float]


def common_ranges(arms: Sequence[Sequence[ArmRun]]) -> Ranges:
    """Axes that hold every curve of `arms`, but for outliers, such as the first epochs of a slow starter."""
    epochs = [epoch for runs in arms for run in complete(runs) for epoch in run.epochs]
    accuracies = [epoch[f"{split}/accuracy"] for epoch in epochs for split in SPLITS]
    losses = [epoch[f"{split}/loss"] for epoch in epochs for split in SPLITS]
    last = max(epoch["epoch"] for epoch in epochs)
    top = -axis_floor([-loss for loss in losses])
    return Ranges(
        epochs=(1 - 0.03 * last, 1.03 * last),
        accuracy=limits([axis_floor(accuracies), max(accuracies)], 0.05),
        loss=limits([min(losses), top], 0.05),
    )


def figure(runs: Sequence[ArmRun], ranges: Ranges) -> go.Figure:
    """Accuracy and loss of one experiment, train and validation: the mean of the seeds in their range."""
    drawn = make_subplots(1, 2, horizontal_spacing=0.14, subplot_titles=("accuracy", "loss (nats)"))
    for column, metric in enumerate(METRICS, 1):
        for split, color in SPLITS.items():
            found = curve(runs, f"{split}/{metric}")
            form = ".2%" if metric == "accuracy" else ".4f"
            for trace in _band(found, color):
                drawn.add_trace(trace, 1, column)
            drawn.add_scatter(
                x=found.epochs, y=found.mean, mode="lines", line={"color": color, "width": 2}, name=split,
                showlegend=column == 1, legendgroup=split, row=1, col=column,
                hovertemplate=f"epoch %{{x}}: {split} %{{y:{form}}}<extra></extra>",
            )  # fmt: skip
    drawn.update_xaxes(range=ranges.epochs, title="epoch", nticks=5, tickformat="d")
    drawn.update_yaxes(range=ranges.accuracy, tickformat=".0%", nticks=6, col=1)
    drawn.update_yaxes(range=ranges.loss, nticks=6, col=2)
    drawn.update_annotations(font={"size": 12, "color": SOFT_INK})
    drawn.update_layout(height=290, margin={"t": 28})
    return drawn


def _band(found: Curve, color: str) -> list[go.Scatter]:
    """The range of the seeds, as two edges with a fill between them."""
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    return [
        go.Scatter(x=found.epochs, y=found.low, **edge),
        go.Scatter(x=found.epochs, y=found.high, fill="tonexty", fillcolor=BANDS[color], **edge),
    ]


def arms(runs: Runs, values: Mapping[str, Sequence[float]], title: str, *, shares: bool) -> go.Figure:
    """A dot for each seed of each arm, and a bar at its mean.

    Args:
        runs: the arms, in the order from above.
        values: of each arm, one a seed; an arm that lacks them is left out.
        title: of the axis.
        shares: the values are shown as percent.
    """
    names = [name for name in runs if values.get(name)]
    dots = [
        (name, run.seed, value) for name in names for run, value in zip(complete(runs[name]), values[name], strict=True)
    ]
    form = percent if shares else "{:.4g}".format
    drawn = go.Figure([
        go.Scatter(x=[value for *_, value in dots], y=[name for name, *_ in dots], mode="markers", name="seed",
                   marker={"color": BLUE, "size": 7, "line": {"color": PAPER, "width": 0.8}},
                   text=[f"{name}, seed {seed}: {form(value)}" for name, seed, value in dots],
                   hovertemplate="%{text}<extra></extra>"),
        go.Scatter(x=[fmean(values[name]) for name in names], y=names, mode="markers", name="mean",
                   marker={"symbol": "line-ns-open", "size": 16, "color": INK, "line": {"width": 2}},
                   text=[f"{name}: mean {form(fmean(values[name]))}" for name in names],
                   hovertemplate="%{text}<extra></extra>"),
    ])  # fmt: skip
    drawn.update_xaxes(title=title, tickformat=".1%" if shares else "")
    drawn.update_yaxes(type="category", autorange="reversed", ticks="", ticklabelstandoff=6, dtick=1)
    drawn.update_layout(height=130 + 22 * len(names))
    return drawn


def mark(drawn: go.Figure, value: float, words: str) -> go.Figure:
    """`drawn` with a line at a published value, which is named above the arms, where it covers none."""
    drawn.add_vline(x=value, line={"color": VERMILLION, "width": 1.5, "dash": "dot"}, annotation_text=words,
                    annotation_font={"color": VERMILLION, "size": 12}, annotation_position="top left",
                    annotation_yanchor="bottom")  # fmt: skip
    drawn.update_layout(margin={"t": 28})
    return drawn


def seed_values(runs: Sequence[ArmRun], metric: str) -> list[float]:
    """A final metric of each complete run; empty unless all have it."""
    values = [run.final.get(metric, math.nan) for run in complete(runs)]
    return values if all(map(math.isfinite, values)) else []
