"""The report of a reproduction: the ledger, all arms with their curves, the X-ray, and what an article publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final

from markupsafe import Markup

from sweeper.core.environment import Environment
from sweeper.core.errors import UsageError
from sweeper.core.experiments import EXPERIMENT_TITLES
from sweeper.replication.article import DEFAULT, Article, ProtocolName, Reproduction
from sweeper.replication.articles import under
from sweeper.replication.claims.ledger import Runs
from sweeper.replication.pages.charts import (
    PUBLISHED,
    arms,
    common_ranges,
    complete_experiments,
    figure,
    mark,
    seed_values,
)
from sweeper.replication.runs import ArmRun, circumstances, complete, diverged, no_runs, read_runs
from sweeper.report.figure import counted, percent
from sweeper.report.page import NOTHING, Cell, Section, Value, beside, chart, facts, figures, heading, page, table, text

ACCURACY: Final = "final/val_accuracy"
CURVES: Final = (
    "Each line is the mean over the seeds, each band their range. Train values are measured in eval mode, without "
    "augmentation. All figures have the same axes, which leave out outliers of the first epochs."
)
XRAY: Final = {
    "xray/variance_shift": ("Variance shift", 4),
    "xray/recalibration_gain_accuracy": ("Recalibration, accuracy", 5),
    "xray/recalibration_gain_loss": ("Recalibration, nats", 5),
    "xray/batch_noise": ("Batch noise", 4),
    "xray/mask_variance": ("Variance over masks", 4),
    "xray/brier": ("Brier", 4),
    "xray/error_confidence": ("Confidence on errors", 4),
    "xray/grad_norm_cv": ("Gradient norm, CV", 3),
    "xray/spikes": ("Spikes", 1),
    "xray/onset": ("Onset, epoch", 1),
}


def article_page(runs: Runs, of: Reproduction, ledger: Sequence[Section] = ()) -> bytes:
    """The report, as one HTML file in UTF-8.

    Args:
        runs: the finished runs of each arm, of at least one, by `runs.read_runs`.
        of: the article and the protocol that they were trained by.
        ledger: the sections that judge the article's claims, which follow its numbers.
    """
    sections = [Section("Summary", _summary(runs, of))]
    experiments = complete_experiments(runs) if of.article.name == DEFAULT else {}
    if experiments:
        sections.append(Section("Against the article's numbers", _numbers(runs)))
    sections += ledger
    if experiments:
        sections.append(Section("Figures 4 to 11", _figures(experiments)))
    sections.append(Section("All arms", _arms(runs, of)))
    if of.article.name != DEFAULT and any(map(complete, runs.values())):
        sections.append(Section("Curves", _curves(runs, of)))
    if any(name in run.final for of_arm in runs.values() for run in of_arm for name in XRAY):
        sections.append(Section("X-ray", _xray(runs)))
    return page(f"{of.article.short}, reproduced", _lead(runs, of), sections)


def _lead(runs: Runs, of: Reproduction) -> str:
    total = sum(map(len, runs.values()))
    return (
        f"{of.article.source}. Protocol {of.name}: {of.protocol.title}. "
        f"{counted(total, 'run')} of {counted(len(runs), 'arm')}."
    )


def _summary(runs: Runs, of: Reproduction) -> Markup:
    ours = of.article.name == DEFAULT
    experiments = complete_experiments(runs) if ours else {}
    numbers: list[tuple[str, Value]] = [
        (f"experiment {number}, {counted(len(experiments[number]), 'seed')}", _mean(experiments[number]))
        for number in (4, 5, 6, 7, 8)
        if number in experiments
    ]
    images = "test images, as the article reads them" if ours else "validation images"
    words = [*(of.article.choices if ours else ()), f"Accuracies are those of the last epoch on the {images}."]
    if ours and of.protocol.train_images:
        words.append("The article trained on all 60,000 images.")
    elif ours and not all(run.all_images for of_arm in runs.values() for run in of_arm):
        words.append("The article trained on all 60,000 images, these runs on a part of them.")
    return (
        (figures(numbers) if numbers else Markup())
        + text(" ".join(words))
        + facts([
            ("Protocol", of.name), ("Arms", len(runs)), ("Diverged runs", sum(map(diverged, runs.values()))),
            *((name.capitalize(), value) for name, value in circumstances(runs).items() if value and name != "device"),
        ])
    )  # fmt: skip


# --- numbers --------------------------------------------------------------------------------------


def _numbers(runs: Runs) -> Markup:
    headers = [
        "Experiment", "The article says", "Published", "Seeds", "Val accuracy", "SD", "Val loss", "Gap", "Loss gap"
    ]  # fmt: skip
    experiments = complete_experiments(runs)
    rows: list[list[Value]] = []
    for number, published in PUBLISHED.items():
        of_arm = experiments.get(number, [])
        rows.append([
            f"{number}: {EXPERIMENT_TITLES[number]}", published.words,
            None if published.accuracy is None else Cell(f"{published.accuracy:.3f}", published.accuracy),
            len(of_arm), _mean(of_arm), _spread(of_arm), _final(of_arm, "val/loss"),
            _final(of_arm, "gap/accuracy"), _final(of_arm, "gap/loss"),
        ])  # fmt: skip
    caption = (
        "Means over seeds at the last epoch; SD is the standard deviation of the accuracy, in points. Gap: train "
        "accuracy minus validation accuracy; validation loss minus train loss. The article gives few of these numbers."
    )
    return text(_gain(experiments)) + table(headers, rows, caption=caption)


def _gain(experiments: dict[int, list[ArmRun]]) -> str:
    """Experiment 6 against the better of 4 and 5; the article reports +0.001."""
    if not {4, 5, 6} <= experiments.keys():
        return "The article's +0.001 is the gain of experiment 6 over 4 and 5. Not all three have runs here."
    means = {number: fmean(seed_values(experiments[number], ACCURACY)) for number in (4, 5, 6)}
    better = max((4, 5), key=lambda number: means[number])
    return (
        "The article reports a gain of +0.001 in experiment 6. "
        f"Here its mean is {means[6] - means[better]:+.4f} against experiment {better}, the better of 4 and 5."
    )


def _cell(values: Sequence[float], form: Callable[[float], str]) -> Cell:
    """The mean of the values; a dash without any."""
    return Cell(form(fmean(values)), fmean(values)) if values else Cell(NOTHING, None)


def _mean(runs: Sequence[ArmRun]) -> Cell:
    return _cell(seed_values(runs, ACCURACY), percent)


def _spread(runs: Sequence[ArmRun]) -> Cell:
    values = seed_values(runs, ACCURACY)
    return Cell(f"{100 * stdev(values):.2f}", stdev(values)) if len(values) > 1 else Cell(NOTHING, None)


def _final(runs: Sequence[ArmRun], metric: str) -> Cell:
    """The mean over `runs` of a metric of the last epoch."""
    return _cell([run.epochs[-1][metric] for run in runs], "{:.4f}".format)


# --- charts ---------------------------------------------------------------------------------------


def _figures(experiments: dict[int, list[ArmRun]]) -> Markup:
    ranges = common_ranges(list(experiments.values()))
    cards = [
        heading(f"Figure {PUBLISHED[number].figure}: experiment {number}")
        + chart(figure(of_arm, ranges), _caption(number, of_arm))
        for number, of_arm in experiments.items()
    ]
    return text(CURVES) + beside(*cards)


def _caption(number: int, runs: Sequence[ArmRun]) -> str:
    title = EXPERIMENT_TITLES[number]
    return f"{title[0].upper()}{title[1:]}; {counted(len(runs), 'seed')}. The article says: {PUBLISHED[number].words}."


def _curves(runs: Runs, of: Reproduction) -> Markup:
    """The curves of each arm, on common axes."""
    finished = {name: complete(of_arm) for name, of_arm in runs.items() if complete(of_arm)}
    ranges = common_ranges(list(finished.values()))
    cards = [
        heading(name) + chart(figure(of_arm, ranges), f"{of.arm(name).title}; {counted(len(of_arm), 'seed')}.")
        for name, of_arm in finished.items()
    ]
    return text(CURVES) + beside(*cards)


def _arms(runs: Runs, of: Reproduction) -> Markup:
    values = {name: seed_values(of_arm, ACCURACY) for name, of_arm in runs.items()}
    drawn = arms(runs, values, "validation accuracy", shares=True)
    if (best := PUBLISHED[8].accuracy) is not None and of.article.name == DEFAULT and runs.get("exp8"):
        mark(drawn, best, "the article's experiment 8")
    rows: list[list[Value]] = [
        [name, of.arm(name).title, len(complete(of_arm)), diverged(of_arm), _mean(of_arm),
         _spread(of_arm), _final(complete(of_arm), "val/loss")]
        for name, of_arm in runs.items()
    ]  # fmt: skip
    headers = ["Arm", "Description", "Seeds", "Diverged", "Val accuracy", "SD", "Val loss"]
    caption = "Means over seeds at the last epoch; the standard deviation is in points."
    words = "Validation accuracy of every arm at the last epoch: a dot for each seed, a bar at the mean."
    return chart(drawn, words) + table(headers, rows, caption=caption)


def _xray(runs: Runs) -> Markup:
    found = {name: of_arm for name, of_arm in runs.items() if any(seed_values(of_arm, metric) for metric in XRAY)}
    rows: list[list[Value]] = [
        [name, *(_cell(seed_values(of_arm, metric), f"{{:.{digits}f}}".format) for metric, (_, digits) in XRAY.items())]
        for name, of_arm in found.items()
    ]
    caption = "Means over seeds, of the weights after the last epoch; a dash where the network has no BatchNorm."
    words = (
        "Variance shift compares the variance that a BatchNorm layer sees in eval mode with the one that it recorded "
        "in training, as a mean ratio: 1 is no shift. Recalibration is the gain from estimating these statistics again "
        "with Dropout off. Onset is the epoch of the lowest validation loss."
    )
    html = text(words)
    shift = {name: seed_values(of_arm, "xray/variance_shift") for name, of_arm in found.items()}
    if any(shift.values()):
        html += chart(arms(found, shift, "variance shift", shares=False), "Variance shift by arm.")
    return html + table(["Arm", *(title for title, _ in XRAY.values())], rows, caption=caption)


def finished_runs(
    env: Environment, article: Article, protocol: ProtocolName | None = None
) -> tuple[Reproduction, Mapping[str, list[ArmRun]]]:
    """Return the runs that the report of an article shows, by arm, and their protocol.

    Without a `protocol`, it is the one with finished runs, and full if both have some.

    Raises:
        UsageError: no run of the protocol has finished, or there is no such protocol.
    """
    candidates = [under(article, name) for name in ([protocol] if protocol else article.protocols)]
    found = ((of, runs) for of in candidates if (runs := read_runs(env.journal, of)))
    first = next(found, None)
    if first is None:
        raise UsageError(no_runs(env.journal, candidates[0]))
    return first
