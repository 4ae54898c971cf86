"""The report of one sweep as a page: its sections, from the settings to the champion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from sweeper.core.environment import Environment
from sweeper.core.metric import ECE, Metric
from sweeper.report.figure import axis_ends, counted, written
from sweeper.report.page import Section, Value, beside, chart, figures, heading, page, png, table, text
from sweeper.report.sweep import pictures
from sweeper.report.sweep.charts import (
    MOST_CURVES,
    confusion,
    curves,
    per_class,
    pruned_epochs,
    time_accuracy,
)
from sweeper.report.sweep.front import front
from sweeper.report.sweep.landscape import BANDWIDTH, FEWEST, contour, heat_map, numeric_pair, rate_map
from sweeper.report.sweep.parallel import parallel
from sweeper.report.sweep.pruned import pruned_by_placement
from sweeper.report.sweep.rows import Champion, Sweep, SweptTrial, read_sweep, valued
from sweeper.report.sweep.tables import (
    all_trials,
    champion_accuracy,
    finalists,
    front_csv,
    front_table,
    lead,
    leaderboard,
    share,
    stopped,
    summary,
    trials_csv,
)

if TYPE_CHECKING:
    from sweeper.study.rows import StudyRecord

MAP_WIDTH: Final = 420  # pixels, at least, of a heat map whose cells hold words
PICTURE_WIDTH: Final = 720  # and of pictures, so that their labels can be read
RATES: Final = ("conv_dropout", "head_dropout")
MOST_CLASSES: Final = 40  # whose confusion is drawn; the table lists all


def sweep_report(env: Environment, record: StudyRecord, drawn: Mapping[str, bytes] | None = None) -> bytes:
    """Write the report of a sweep; `drawn` are its pictures, if they have been drawn already."""
    sweep = read_sweep(record, env.journal, env.warn)
    return sweep_page(sweep, draw(sweep) if drawn is None else drawn)


def sweep_files(env: Environment, record: StudyRecord) -> dict[str, bytes]:
    """Return the pictures of a sweep, and its tables as CSV, by file name."""
    sweep = read_sweep(record, env.journal, env.warn)
    return {**draw(sweep), "trials.csv": trials_csv(sweep), "pareto.csv": front_csv(sweep)}


def sweep_page(sweep: Sweep, drawn: Mapping[str, bytes]) -> bytes:
    """Write the report as one HTML file in UTF-8; `drawn` are the pictures of `draw`."""
    # plotly takes pandas as it finds it, also half imported: by the uploader's thread, with MLflow.
    import pandas  # noqa: F401

    sections = [Section(title, html) for title, html in _sections(sweep, drawn)]
    return page(f"Sweep {sweep.name}", lead(sweep), sections)


def draw(sweep: Sweep) -> dict[str, bytes]:
    """Draw the pictures of a sweep as PNG images, by file name."""
    title = f"study {sweep.name}"
    return {
        "history.png": pictures.history(sweep.trials, sweep.metric, title),
        "importance.png": pictures.importance(sweep.importances, title),
        "placements.png": pictures.placements(sweep.trials, sweep.metric, title),
    }


def _sections(sweep: Sweep, drawn: Mapping[str, bytes]) -> Iterator[tuple[str, Markup]]:
    ranked, pruned, metric = sweep.ranked(), valued(sweep.trials, "pruned"), sweep.metric
    name = f"Validation {metric.noun}"
    yield "Summary", summary(sweep)
    if ranked:
        yield "Leaderboard", leaderboard(sweep)
    if sweep.finalists:
        yield "Finalists", finalists(sweep)
    if ranked:
        yield "Accuracy, loss and time", _front(sweep)
    if ranked or pruned:
        yield "Curves", _curves(ranked, pruned, metric)
        yield "History", text(_history_words(sweep, ranked)) + _picture(drawn["history.png"], f"{name} by trial")
    if ranked:
        yield "Importance", _importance(sweep, drawn["importance.png"])
        yield "Placements", _picture(drawn["placements.png"], f"{name} by placement")
        yield "Parallel coordinates", _parallel(ranked, metric)
        yield "Placement and rate", _rates(ranked, metric)
        yield "Two parameters", _contour(sweep, ranked)
    if ended_early := [t for t in sweep.trials if t.state in ("pruned", "failed")]:
        yield (
            "Pruned and failed",
            _stopped(sweep.trials, ended_early, metric),
        )
    if sweep.champion is not None:
        yield "Champion", _champion(sweep.champion)
    yield "All trials", all_trials(sweep)


# --- the search -----------------------------------------------------------------------------------


def _picture(content: bytes, alt: str) -> Markup:
    return png(content, alt, least_width=PICTURE_WIDTH)


def _curves(ranked: Sequence[SweptTrial], pruned: Sequence[SweptTrial], metric: Metric) -> Markup:
    which = f"The best {MOST_CURVES} complete trials" if len(ranked) > MOST_CURVES else "Complete trials"
    faint = f"; {counted(len(pruned), 'pruned trial')} in grey" if pruned else ""
    words = f"{which}, coloured by placement{faint}. A click on the legend hides a group."
    known = {name for trial in (*ranked, *pruned) for epoch in trial.epochs for name in epoch}
    parts = [
        chart(curves(ranked, pruned, each), f"Validation {each.noun} by epoch.")
        for each in metric.with_others
        if each.name in known
    ]
    return text(words) + beside(*parts)


def _history_words(sweep: Sweep, ranked: Sequence[SweptTrial]) -> str:
    if not ranked:
        return f"Validation {sweep.metric.noun} by trial; none is complete."
    return (
        f"Validation {sweep.metric.noun} by trial. The best was reached after {ranked[0].number + 1:,} of "
        f"{counted(len(sweep.trials), 'trial')}."
    )


def _importance(sweep: Sweep, picture: bytes) -> Markup:
    if not any(found.measured for found in sweep.importances):
        return text(pictures.TOO_FEW)
    words = (
        "How far each parameter decides which trials are among the best (PED-ANOVA), as a share of what all parameters "
        "decide, with the interval that holds 95% of the shares in 100 bootstrap samples. Where intervals overlap, the "
        "order of the parameters is not settled. A rate of Dropout is judged among the trials whose placement has it, "
        "so the shares do not add up to 1."
    )
    return text(words) + _picture(picture, "Importance of the parameters")


def _parallel(ranked: Sequence[SweptTrial], metric: Metric) -> Markup:
    words = (
        "Complete trials: the darker the line, the better; the best is in vermillion. A trial without a parameter "
        "passes below its axis."
    )
    drawn = parallel(ranked, metric)
    return chart(drawn, words, least_width=110 * (len(drawn.layout.xaxis.tickvals) + 1))


def _rates(ranked: Sequence[SweptTrial], metric: Metric) -> Markup:
    maps = [(rate, cells) for rate in RATES if (cells := rate_map(ranked, rate)) is not None]
    if not maps:
        return text("The trials have no placement together with a rate of Dropout.")
    means = [mean for _, cells in maps for mean in cells.means.ravel().tolist() if not math.isnan(mean)]
    span = axis_ends(means, metric)
    words = (
        "n is the number of complete trials in a cell: a mean of one or two says little. The maps share their colours."
    )
    drawn = [
        (heat_map(cells, metric, rate, span), f"Mean {metric.words} by placement and {rate}.") for rate, cells in maps
    ]
    return text(words) + beside(*(chart(figure, caption, least_width=MAP_WIDTH) for figure, caption in drawn))


def _contour(sweep: Sweep, ranked: Sequence[SweptTrial]) -> Markup:
    pair = numeric_pair(sweep)
    if pair is None:
        return text(f"A contour needs two numeric parameters that {FEWEST} complete trials have together.")
    words = (
        f"Validation {sweep.metric.noun} over {pair[0]} and {pair[1]}, the two most important numeric parameters, "
        f"smoothed by a Gaussian kernel of {BANDWIDTH:.0%} of each range; empty where no trial is near. Dots are "
        "trials, the best of them in vermillion."
    )
    return chart(contour(ranked, sweep.metric, pair), words)


def _front(sweep: Sweep) -> Markup:
    timed = [each for each in sweep.by_accuracy() if each.seconds and each.loss is not None]
    if not timed:
        return text("No complete trial has a loss and a time.")
    best = front(timed)
    words = (
        f"{counted(len(best), 'configuration')} of {len(timed):,} {'is' if len(best) == 1 else 'are'} on the front of "
        "accuracy, loss and time; the choice among them is yours."
    )
    caption = (
        "Mean accuracy and seconds of each configuration. The line joins those that no faster one surpasses in "
        "accuracy; a ring marks the front of all three. Times depend on what else the machine did."
    )
    return text(words) + front_table(best, sweep.parameters) + chart(time_accuracy(timed, best), caption)


def _stopped(trials: Sequence[SweptTrial], ended_early: Sequence[SweptTrial], metric: Metric) -> Markup:
    pruned = [t for t in ended_early if t.state == "pruned"]
    if not pruned:
        return stopped(ended_early, metric)
    drawn = pruned_epochs(pruned, max(len(t.epochs) for t in trials))
    words = "Trials by the epoch after which they were pruned."
    return pruned_by_placement(trials) + chart(drawn, words) + stopped(ended_early, metric)


# --- the champion ---------------------------------------------------------------------------------


def _champion(champion: Champion) -> Markup:
    metrics = champion.metrics
    words = (
        f"Trial {champion.trial}, retrained on all training images and evaluated once on the test images, which were "
        "not used in the search."
    )
    numbers: list[tuple[str, Value]] = [
        champion_accuracy(champion, "test accuracy"),
        ("test loss, nats", f"{metrics['test/loss']:.4f}"),
        ("expected calibration error", written(metrics[ECE.test], ECE)),
    ]
    html = text(words) + figures(numbers)
    if champion.confusion:
        rows: list[list[Value]] = [
            [name, total, share(right), taken] for name, total, right, taken in per_class(champion)
        ]
        classes = table(["Class", "Images", "Recognised", "Most often taken for"], rows, caption="The classes")
        caption = "Test images by true and predicted class; only errors are coloured."
        few = len(rows) <= MOST_CLASSES
        html += beside(chart(confusion(champion), caption), classes) if few else classes
    if champion.errors:
        html += heading("Its most confident errors")
        html += _picture(champion.errors, "Test images, each with its true and its predicted class")
    return html
