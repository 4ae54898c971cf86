"""The text and tables of a sweep's report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from sweeper.core.intervals import HIGH, LOW, accuracy_interval, difference_margin
from sweeper.core.metric import ACCURACY, LOSS, Metric
from sweeper.core.text import duration
from sweeper.report.figure import counted, percent, written
from sweeper.report.page import NOTHING, Cell, Value, download, facts, figures, folded, table, text
from sweeper.report.sweep.charts import shown
from sweeper.report.sweep.front import front
from sweeper.report.sweep.rows import Champion, Configuration, Sweep, SweptTrial, mean
from sweeper.study.edges import edges
from sweeper.study.evidence import Standing
from sweeper.study.space import Space

LEADERS: Final = 50
MOST_ROWS: Final = 1_000


def lead(sweep: Sweep) -> str:
    """Summarise the sweep in two sentences."""
    states = [t.state for t in sweep.trials]
    counts = {state: states.count(state) for state in ("complete", "pruned", "failed", "running")}
    parts = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    words = counted(len(sweep.trials), "trial") + (f": {parts}." if parts else ".")
    if sweep.copies:
        words += f" Left out: {counted(sweep.copies, 'duplicate')}, which had the result of an earlier trial."
    configurations = sweep.configurations()
    if not configurations:
        return f"{words} No trial is complete yet."
    best = _best(sweep, configurations)
    params = ", ".join(f"{name} {shown(value)}" for name, value in best.trial.params.items())
    return f"{words} The best is trial {best.trial.number} with {best.in_words(sweep.metric)}: {params}."


class _Best(NamedTuple):
    """The best configuration, by finalists where there are any: its first trial, and the evidence for it."""

    trial: SweptTrial
    standing: Standing
    seeds: str  # in words
    accuracy: float | None  # mean

    def in_words(self, metric: Metric) -> str:
        """Return its value, the interval and the seeds they rest on."""
        standing = self.standing
        name = "" if metric == ACCURACY else f"{metric.words} "
        interval = limits(standing.low, standing.high, metric)
        return name + written(standing.shrunken, metric) + interval + (self.seeds and f", {self.seeds}")


def _best(sweep: Sweep, configurations: Sequence[Configuration]) -> _Best:
    trials = {str(c.trials[0].number): c.trials[0] for c in configurations}
    for found in sweep.finalists:
        if found.key in trials:
            seeds = f"the mean of {counted(found.n, 'fresh seed')}"
            return _Best(trials[found.key], found, seeds, sweep.finalist_accuracies.get(found.key))
    first, standing = configurations[0].trials[0], configurations[0].standing
    seeds = counted(standing.n, "seed") if standing.n > 1 else ""
    return _Best(first, standing, seeds, configurations[0].mean(ACCURACY))


def limits(low: float, high: float, metric: Metric) -> str:
    """Show an interval of a metric, or nothing where there is none."""
    if not low < high:
        return ""
    return f" [{', '.join(written(end, metric).rstrip('%') for end in _possible(low, high, metric))}]"


def _possible(low: float, high: float, metric: Metric) -> tuple[float, float]:
    """Cut an interval to the values that the metric can have."""
    return max(low, 0.0), min(high, 1.0) if metric.unit == "%" else high


def summary(sweep: Sweep) -> Markup:
    """Return the most important numbers, the circumstances and the settings."""
    numbers: list[tuple[str, Value]] = []
    metric = sweep.metric
    if configurations := sweep.configurations():
        best = _best(sweep, configurations)
        low, high = (written(end, metric) for end in _possible(best.standing.low, best.standing.high, metric))
        interval = f"95% interval {low} to {high}" if best.standing.low < best.standing.high else ""
        label = "; ".join(filter(None, (f"best {metric.words}", best.seeds, interval)))
        numbers.append((label, written(best.standing.shrunken, metric)))
        if metric != ACCURACY and best.accuracy is not None:
            numbers.append(("its validation accuracy", percent(best.accuracy)))
    if sweep.champion is not None:
        numbers.append(champion_accuracy(sweep.champion, "test accuracy, evaluated once"))
        if metric != ACCURACY:
            numbers.append((f"test {metric.noun}", written(sweep.champion.metrics[metric.test], metric)))
    numbers.append(("finished trials", sum(t.state in ("complete", "pruned") for t in sweep.trials)))
    if seconds := sum(t.seconds or 0.0 for t in sweep.trials):
        numbers.append(("of training", duration(seconds)))
    return figures(numbers) + facts(_circumstances(sweep)) + folded("Settings and search space", _settings(sweep))


def champion_accuracy(champion: Champion, name: str) -> tuple[str, Value]:
    """Return the champion's test accuracy under `name`, which the interval follows where it is known."""
    metrics = champion.metrics
    interval = f"; 95% interval {percent(metrics[LOW])} to {percent(metrics[HIGH])}" if LOW in metrics else ""
    return name + interval, percent(metrics["test/accuracy"])


def _circumstances(sweep: Sweep) -> Iterator[tuple[str, Value]]:
    settings, tags = sweep.settings, sweep.tags
    if sweep.began and sweep.ended:
        end = "%H:%M" if sweep.began.date() == sweep.ended.date() else "%Y-%m-%d %H:%M"
        yield "Ran", f"{sweep.began:%Y-%m-%d %H:%M} to {sweep.ended.strftime(end)}"
    yield "Data set", tags.get("sweeper.dataset") or settings.get("dataset")
    yield "SHA-256 of the data set", f"{settings.get('dataset_sha256', '')[:16]}\N{HORIZONTAL ELLIPSIS}"
    if sweep.images:
        yield "Images", ", ".join(f"{count:,} {name.replace('_images', '')}" for name, count in sweep.images.items())
    yield "Network", settings.get("model")
    yield "Epochs of a trial", settings.get("epochs")
    yield "Sampler and pruner", f"{settings.get('sampler')}, {settings.get('pruner')}"
    seeds = {"search": settings.get("search_seed"), "training": settings.get("seed")}
    yield "Seeds", ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)
    for name in ("hardware", "threads", "versions"):
        if f"sweeper.{name}" in tags:
            yield "Threads of a trial" if name == "threads" else name.capitalize(), tags[f"sweeper.{name}"]
    if commit := tags.get("mlflow.source.git.commit"):
        yield "Commit", commit[:12]


def _settings(sweep: Sweep) -> Markup:
    plain = [(k, str(v)) for k, v in sweep.settings.items() if not k.startswith("space.")]
    space = [(k.removeprefix("space."), dimension(v)) for k, v in sweep.settings.items() if k.startswith("space.")]
    return table(["Parameter", "Searched over"], space, caption="The search space", sortable=False) + table(
        ["Setting", "Value"], plain, caption="Settings that all trials share", sortable=False
    )


def dimension(described: Any) -> str:
    """Describe a dimension of the search space, as `space.describe` returns it."""
    if isinstance(described, Mapping):
        scale = ", logarithmic" if described.get("log") else ""
        return f"{described.get('low')} to {described.get('high')}{scale}"
    return ", ".join(map(str, described)) if isinstance(described, list | tuple) else str(described)


# --- trials ---------------------------------------------------------------------------------------


def leaderboard(sweep: Sweep) -> Markup:
    """Tabulate the best configurations, of which there is at least one, and say which differences mean something."""
    (leading, names), leaders = _split(sweep.parameters), sweep.configurations()
    metric, *others = sweep.metric.with_others
    headers = ["Rank", "Trial", *leading, _header(metric), "Seeds", *map(_header, others), "Gap", *names, "Seconds"]
    rows: list[list[Value]] = []
    for rank, each in enumerate(leaders[:LEADERS], 1):
        first, standing = each.trials[0], each.standing
        rows.append([rank, first.number, *_params(first, leading), score(standing.shrunken, metric), standing.n,
                     *(score(each.mean(other), other) for other in others),
                     share(mean(map(_gap, each.trials))), *_params(first, names), fixed(each.seconds, 1)])  # fmt: skip
    means = ", ".join([*(other.noun for other in others), "gap and seconds"]).capitalize()
    which = f"The best {LEADERS} of {len(leaders):,} configurations" if len(leaders) > LEADERS else "Configurations"
    caption = (
        f"{which}, each with its first trial, by the mean {metric.words} of its seeds, shrunken towards the mean of "
        f"all. {means} are means. Gap: train accuracy minus validation accuracy."
    )
    noise = text(_noise(sweep, [c.trials[0] for c in leaders]))
    return noise + _edges(sweep, leaders) + table(headers, rows, caption=caption)


def _edges(sweep: Sweep, leaders: Sequence[Configuration]) -> Markup:
    """Say which numbers of the best configuration lie at an edge of the search space."""
    described = {k.removeprefix("space."): v for k, v in sweep.settings.items() if k.startswith("space.")}
    found = edges(Space.read(described), _best(sweep, leaders).trial.params)
    return text(" ".join(found)) if found else Markup()


def front_table(found: Sequence[Configuration], names: Sequence[str]) -> Markup:
    """Tabulate the configurations on the front of accuracy, loss and time."""
    leading, names = _split(names)
    rows: list[list[Value]] = [
        [c.trials[0].number, *_params(c.trials[0], leading), share(c.standing.shrunken),
         limits(c.standing.low, c.standing.high, ACCURACY).strip() or NOTHING, c.standing.n, fixed(c.loss, 4),
         fixed(c.seconds, 1), *_params(c.trials[0], names)]
        for c in found
    ]  # fmt: skip
    caption = (
        "The front: no other configuration is at least as good in all three, and better in one. Means over the seeds "
        "of the search, with the 95% interval of the accuracy where the seeds allow one."
    )
    headers = ["Trial", *leading, "Val accuracy", "95% interval", "Seeds", "Val loss", "Seconds", *names]
    return table(headers, rows, caption=caption)


def front_csv(sweep: Sweep) -> bytes:
    """Return the configurations on the front of accuracy, loss and time as rows of a CSV file."""
    names = sorted(sweep.parameters)
    rows = []
    for c in front(sweep.by_accuracy()):
        standing = c.standing
        interval = (standing.low, standing.high) if standing.low < standing.high else ("", "")
        params = [c.trials[0].params.get(name, "") for name in names]
        rows.append([c.trials[0].number, standing.shrunken, *interval, standing.n, c.loss, c.seconds, *params])
    return _csv(["trial", "val_accuracy", "low", "high", "seeds", "val_loss", "seconds", *names], rows)


def finalists(sweep: Sweep) -> Markup:
    """Tabulate the finalists, of which there is at least one."""
    (leading, names), trials = _split(sweep.parameters), {str(trial.number): trial for trial in sweep.trials}
    metric, beside = sweep.metric, [ACCURACY] if sweep.metric != ACCURACY else []
    rows: list[list[Value]] = [
        [rank, trials[key].number, *_params(trials[key], leading), score(found, metric),
         limits(low, high, metric).strip() or NOTHING, n,
         *(score(sweep.finalist_accuracies.get(key), each) for each in beside),
         *_params(trials[key], names)]
        for rank, (key, n, _, found, low, high) in enumerate(sweep.finalists, 1)
        if key in trials
    ]  # fmt: skip
    words = (
        "The best configurations of the search, trained again with seeds that it did not use: the best of many trials "
        "is partly luck, and these means are not. The best mean is the champion."
    )
    caption = f"Mean {metric.words} over fresh seeds, shrunken towards that of all, with its 95% interval."
    headers = ["Rank", "Trial", *leading, _header(metric), "95% interval", "Seeds", *map(_header, beside), *names]
    return text(words) + table(headers, rows, caption=caption)


def _noise(sweep: Sweep, ranked: Sequence[SweptTrial]) -> str:
    """Say how far apart two accuracies must be to mean something; of another metric that is not known."""
    bias = f"The best of many trials looks better than it is: the test {sweep.metric.noun} judges it."
    images = sweep.images.get("val_images")
    if not images or sweep.metric != ACCURACY:
        return bias
    best = ranked[0].score
    images *= sweep.settings.get("folds") or 1  # an accuracy is the mean over all folds
    low, high = accuracy_interval(best, images)
    margin = difference_margin(best, images)
    near = sum(best - t.score <= margin for t in ranked[1:])
    return (
        f"An accuracy of {percent(best)} on {images:,} validation images has a 95% interval from {percent(low)} to "
        f"{percent(high)}. {counted(near, 'other trial')} {'is' if near == 1 else 'are'} within {100 * margin:.2f} "
        "points of the best, too close to tell apart with these images and one seed each (half the 95% interval of a "
        f"difference of two accuracies). {bias}"
    )


def all_trials(sweep: Sweep) -> Markup:
    """Tabulate every trial, folded, with a CSV file to download."""
    (leading, names), metrics, cost = _split(sweep.parameters), sweep.metric.with_others, sweep.metric.cost
    headers = ["Trial", *leading, "State", *map(_header, metrics), "Epochs", *names, "Seconds", "Note"]
    best_first = sorted(
        sweep.trials, key=lambda t: (t.state != "complete", math.inf if t.value is None else cost(t.value))
    )
    kept = sorted(best_first[:MOST_ROWS], key=lambda t: t.number)
    rows: list[list[Value]] = [
        [t.number, *_params(t, leading), t.state, *(score(t.of(metric), metric) for metric in metrics),
         len(t.epochs), *_params(t, names),
         fixed(t.seconds, 1), t.reason] for t in kept
    ]  # fmt: skip
    left_out = f" The best {MOST_ROWS:,} of {len(sweep.trials):,} are shown." if len(kept) < len(sweep.trials) else ""
    caption = f"Every trial, by number; the values of a pruned one are its last.{left_out}"
    file = download(f"{sweep.name}-trials.csv", trials_csv(sweep), "text/csv")
    return file + folded(f"Show {counted(len(kept), 'trial')}", table(headers, rows, caption=caption))


def stopped(trials: Sequence[SweptTrial], metric: Metric) -> Markup:
    """Tabulate pruned and failed trials with the reason, folded."""
    headers = ["Trial", "State", "Epochs", f"Last {metric.label}", "Why"]
    rows: list[list[Value]] = [
        [t.number, t.state, len(t.epochs), score(t.value, metric), t.reason] for t in trials[:MOST_ROWS]
    ]
    return folded(f"Show {counted(len(rows), 'trial')}", table(headers, rows, caption="Trials that ended early"))


def trials_csv(sweep: Sweep) -> bytes:
    """Return every trial as a row of a CSV file."""
    names, metrics = sorted(sweep.parameters), dict.fromkeys((ACCURACY, LOSS, sweep.metric))
    rows = []
    for t in sweep.trials:
        params = [t.params.get(name, "") for name in names]
        values = [t.of(metric) for metric in metrics]
        rows.append([t.number, t.state, *values, len(t.epochs), t.seconds, *params, t.reason])
    keys = [metric.key for metric in metrics]
    return _csv(["trial", "state", *keys, "epochs", "seconds", *names, "reason"], rows)


def _csv(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([headers, *rows])
    return stream.getvalue().encode()


# --- cells ----------------------------------------------------------------------------------------


def share(value: float | None) -> Cell:
    """Show a share as percent."""
    return Cell(NOTHING, None) if value is None or math.isnan(value) else Cell(percent(value), value)


def score(value: float | None, metric: Metric) -> Cell:
    """Show a value of a metric."""
    return share(value) if metric.unit == "%" else fixed(value, 4)


def _header(metric: Metric) -> str:
    return f"Val {metric.noun}"


def fixed(value: float | None, digits: int) -> Cell:
    """Show a number with `digits` decimals."""
    return Cell(NOTHING, None) if value is None else Cell(f"{value:,.{digits}f}", value)


def _split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the parameters to show before the values, where a phone shows them too, and the others."""
    return [name for name in names if name == "placement"], [name for name in names if name != "placement"]


def _params(trial: SweptTrial, names: Sequence[str]) -> list[Value]:
    values = [trial.params.get(name) for name in names]
    return [v if v is None or isinstance(v, str) else Cell(shown(v), float(v)) for v in values]


def _gap(trial: SweptTrial) -> float | None:
    return trial.epochs[-1].get("gap/accuracy") if trial.epochs else None
