"""The HTML page: recommendation, ranking, answers and their evidence. One file that works offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

import plotly.graph_objects as go
from markupsafe import Markup

from sweeper import __version__
from sweeper.advice.placed import WORDS, cell_words
from sweeper.advice.result import Advice, Row
from sweeper.advice.words import NOT_EXAMINED, recipe, why
from sweeper.core.intervals import TEST, accuracy_words
from sweeper.core.metric import ACCURACY
from sweeper.core.text import counted, duration
from sweeper.report.figure import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    SOFT_INK,
    VERMILLION,
    as_png,
    decorate,
    new_figure,
    percent_tick,
    round_ticks,
    row_size,
)
from sweeper.report.page import (
    GREEN,
    PINK,
    SKY,
    Cell,
    Section,
    Value,
    chart,
    facts,
    figures,
    folded,
    page,
    png,
    table,
    text,
)

COLORS: Final = (VERMILLION, BLUE, ORANGE, GREEN, PINK, SKY, INK, GREY, SOFT_INK, "#5E4FA2")
LEGEND: Final = (
    "The interval of an accuracy is the 95 % interval of that mean alone, by Student's t. Those of differences hold "
    "simultaneously, at all looks: in 95 of 100 runs of this command, every placement that is called worse is worse. "
    "Both cover only the variation between seeds, on these validation images."
)


def html(advice: Advice, picture: bytes, command: str) -> bytes:
    """Return the page.

    Args:
        advice: what it shows.
        picture: the ranking, from `ranking_picture`.
        command: reproduces the advice.
    """
    best = advice.best
    train, val, classes = advice.counts
    lead = (
        f"{advice.network} on {advice.images}: {train:,} training and {val:,} validation images, {classes} classes; "
        f"{counted(advice.trainings, 'run')} of {counted(advice.epochs, 'epoch')} in {duration(advice.seconds)}."
    )
    names = [(answer.asks, answer.sentence) for answer in advice.answers]
    sections = [
        Section("Recommendation", _recommendation(advice)),
        Section("Ranking", png(picture, _pictured(advice)) + _table(advice.rows) + text(LEGEND)),
        Section("Answers", table(("question", "answer"), names, sortable=False)),
        Section("Why", Markup("").join(map(text, why(advice)))),
        Section("What each placement was given, and what it measured", _details(advice.rows)),
        Section("Curves", chart(_curves(advice.rows), "Validation accuracy by epoch: mean over the seeds of the "
                                "comparison, with their range.")),
        Section("What was varied, and what was not", _varied(advice)),
        Section("How to reproduce it", Markup("<pre>{}</pre>").format(command)
                + facts({"sweeper": __version__, **advice.provenance, **advice.configuration.to_params()}.items())),
    ]  # fmt: skip
    return page(f"Advice: {cell_words(best.placement, best.cell)}", lead, sections)


def ranking_picture(advice: Advice) -> bytes:
    """Return the ranking as a PNG: the mean of each placement with its interval, over the values of its seeds."""
    figure = new_figure(f"{advice.network} on {advice.images}", _pictured(advice), height=1.6 + 0.42 * len(advice.rows))
    axes = figure.subplots()
    decorate(axes, "", "x")
    round_ticks(axes.xaxis, percent_tick)
    axes.set_ylim(len(advice.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(advice.rows)), [WORDS[row.placement] for row in advice.rows])
    axes.tick_params(axis="y", labelsize=row_size(len(advice.rows)))
    left, right = _limits(advice.rows)
    axes.set_xlim(left, right)
    for height, row in enumerate(advice.rows):
        color = VERMILLION if height == 0 else BLUE if row.behind and row.behind.low <= 0 else GREY
        ends = [curve[-1] for curve in row.curves]
        axes.plot(ends, [height] * len(ends), "|", color=color, alpha=0.5, markersize=9)
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [height, height], color=color, linewidth=2)
        if ends:
            axes.plot([fmean(ends)], [height], "o", color=color, markersize=6)
    return as_png(figure)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The accuracies that the picture shows: those of half of the seeds of each placement at the least.

    A few seeds that did not learn at all would else press all others together.
    """
    ends = [[curve[-1] for curve in row.curves] for row in rows if row.curves]
    low, high = min(map(median, ends), default=0.0), max(map(max, ends), default=1.0)
    margin = max(0.25 * (high - low), 0.002)
    return low - margin, high + margin


def _pictured(advice: Advice) -> str:
    behind = [row for row in advice.rows[1:] if row.behind and row.behind.low <= 0]
    rest = "no other is as good" if not behind else f"{len(behind)} not told apart from the best"
    low, _ = _limits(advice.rows)
    below = sum(curve[-1] < low for row in advice.rows for curve in row.curves)
    cut = f"; {counted(below, 'seed')} below {100 * low:.0f} % not shown" if below else ""
    return f"Validation accuracy, 95 % intervals, one tick per seed; {rest}{cut}"


def _recommendation(advice: Advice) -> Markup:
    best = advice.best
    assert best.cell is not None
    numbers: list[tuple[str, Value]] = [("validation accuracy", f"{100 * best.accuracy:.2f} %"), ("seeds", best.seeds)]
    if not math.isnan(best.low):
        numbers.insert(1, ("95 % interval", f"{100 * best.low:.1f} to {100 * best.high:.1f} %"))
    if TEST in advice.test:
        numbers.append(("test accuracy, evaluated once", f"{100 * advice.test[TEST]:.1f} %"))
    words = f"{cell_words(best.placement, best.cell)}, learning rate {advice.configuration.lr:g}."
    if TEST in advice.test:
        words += f" Retrained on train + validation, test accuracy {accuracy_words(advice.test, ACCURACY)}."
    code = Markup("<pre>{}</pre>")
    drawn = code.format(advice.drawing) + folded("The same in PyTorch", code.format(advice.code))
    return text(words) + figures(numbers) + drawn


def _table(rows: Sequence[Row]) -> Markup:
    headers = ("placement", "val accuracy", "95 % interval", "seeds", "verdict")
    return table(headers, [_cells(row) for row in rows], sortable=True)


def _cells(row: Row) -> Sequence[str | int | Cell | None]:
    known = not math.isnan(row.accuracy)
    return (
        WORDS[row.placement], Cell(f"{100 * row.accuracy:.2f} %", row.accuracy) if known else None,
        Cell(f"{100 * row.low:.1f} to {100 * row.high:.1f} %", row.low) if not math.isnan(row.low) else None,
        row.seeds, row.verdict,
    )  # fmt: skip


def _details(rows: Sequence[Row]) -> Markup:
    """The rates and learning rate that the screening found for each placement, and what its runs measured."""
    headers = ("placement", "conv rate", "head rate", "lr factor", "val loss", "train loss", "val ECE", "s/epoch", "MB")
    return table(headers, [_detail(row) for row in rows], sortable=True) + text(
        "Means over the seeds; losses in nats. The lr factor multiplies the learning rate of the configuration. MB are "
        "those of the activations of a batch."
    )


def _detail(row: Row) -> Sequence[str | float | Cell | None]:
    cell, measures = row.cell, row.measures
    digits = {"loss": 3, "train_loss": 3, "ece": 3, "epoch_s": 2, "activations_mb": 1}
    numbers = [_number(measures.get(name), places) for name, places in digits.items()]
    return row.placement.value, *(each or None for each in (cell or (None,) * 4)[1:]), *numbers


def _number(value: float | None, digits: int) -> Cell | None:
    return None if value is None else Cell(f"{value:.{digits}f}", value)


def _curves(rows: Sequence[Row]) -> go.Figure:
    figure = go.Figure()
    for row, color in zip(rows, COLORS, strict=False):
        if not row.curves:
            continue
        columns = list(zip(*row.curves, strict=True))
        epochs = list(range(1, len(columns) + 1))
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=epochs + epochs[::-1], y=[max(c) for c in columns] + [min(c) for c in columns][::-1], fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.15)", line={"width": 0}, hoverinfo="skip", showlegend=False,
            legendgroup=row.placement.value,
        )  # fmt: skip
        figure.add_scatter(
            x=epochs, y=[fmean(column) for column in columns], name=row.placement.value, line={"color": color},
            legendgroup=row.placement.value,
        )  # fmt: skip
    figure.update_layout(xaxis_title="epoch", yaxis_title="val accuracy", yaxis_tickformat=".1%")
    return figure


def _varied(advice: Advice) -> Markup:
    return facts([
        ("varied", "placement, Dropout rates, learning rate"), ("not examined", NOT_EXAMINED),
        ("kept as they are", recipe(advice.configuration)),
    ])  # fmt: skip
