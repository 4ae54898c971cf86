"""A sweep as tuples, read from its study and its journal."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sweeper.core.errors import RecordError
from sweeper.core.inside import read_inside
from sweeper.core.intervals import with_interval
from sweeper.core.metric import ACCURACY, LOSS, Metric, metric_of
from sweeper.study.evidence import Standing, by_configuration, standings
from sweeper.tracking.reading import ARTIFACTS, finished_of, history, read_events

if TYPE_CHECKING:
    from sweeper.study.importance import Importance
    from sweeper.study.rows import StudyRecord, TrialRow


MOST_FILE: Final = 10_000_000  # bytes of a file that the report shows


class SweptTrial(NamedTuple):
    """One trial as its study recorded it and, where the journal has its run, its training by epoch."""

    number: int
    state: str  # complete, pruned, running or failed
    value: float | None  # of the metric that the study searches for; of a pruned trial the last one reported
    loss: float | None  # validation loss in nats, at the same epoch
    params: Mapping[str, float | int | str]
    epochs: Sequence[Mapping[str, float]]  # `epoch`, what was reported; other metrics where the journal has the run
    seconds: float | None  # of training and evaluation
    reason: str
    accuracy: float | None = None  # validation accuracy in [0, 1], at the same epoch

    @property
    def score(self) -> float:
        """Return the value, NaN where there is none."""
        return math.nan if self.value is None else self.value

    def of(self, metric: Metric) -> float | None:
        """Return its accuracy, its loss or, of any other metric, its value: the study searches for that one."""
        return {ACCURACY: self.accuracy, LOSS: self.loss}.get(metric, self.value)


class Configuration(NamedTuple):
    """The complete trials that have the same parameters, one for each seed."""

    trials: list[SweptTrial]  # by number
    standing: Standing  # of its values

    def mean(self, metric: Metric) -> float | None:
        """Return the mean of a metric, if any is known."""
        return mean(trial.of(metric) for trial in self.trials)

    @property
    def loss(self) -> float | None:
        """Return the mean validation loss in nats, if any is known."""
        return self.mean(LOSS)

    @property
    def seconds(self) -> float | None:
        """Return the mean seconds of training and evaluation, if any are known."""
        return mean(trial.seconds for trial in self.trials)


class Champion(NamedTuple):
    """The best configuration, retrained on all training images and evaluated once on the test images."""

    trial: int
    metrics: Mapping[str, float]
    classes: list[str]
    confusion: list[list[int]]  # rows are true classes, columns predicted ones; empty where the journal lacks it
    errors: bytes | None  # a PNG of its most confident errors


class Sweep(NamedTuple):
    """Everything that the report of a sweep shows."""

    name: str
    settings: Mapping[str, Any]
    trials: list[SweptTrial]  # by number, without copies
    importances: Sequence[Importance]
    champion: Champion | None
    tags: Mapping[str, str]  # of a trial's run in MLflow
    images: Mapping[str, int]  # train_images, val_images
    began: dt.datetime | None
    ended: dt.datetime | None
    finalists: Sequence[Standing] = ()  # the best mean first; the key is the number of a configuration's first trial
    finalist_accuracies: Mapping[str, float | None] = {}  # their mean accuracies, by the same key
    copies: int = 0  # trials for which 0.1.0 copied an earlier result; left out, as they are no evidence

    @property
    def metric(self) -> Metric:
        """The metric that the study optimizes."""
        return metric_of(self.settings)

    def ranked(self) -> list[SweptTrial]:
        """Return the complete trials, best first, ties by loss, then by number."""
        cost = self.metric.cost
        return sorted(valued(self.trials, "complete"), key=lambda t: (cost(t.score), t.loss or 0.0, t.number))

    def configurations(self) -> list[Configuration]:
        """Return the configurations that have complete trials, best first, as the study decides."""
        return _configurations(self.trials, self.metric)

    def by_accuracy(self) -> list[Configuration]:
        """Return the configurations that have complete trials as a search for accuracy would judge them."""
        return _configurations([trial._replace(value=trial.accuracy) for trial in self.trials], ACCURACY)

    @property
    def parameters(self) -> list[str]:
        """Return the parameters that any trial has, in the order of asking."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))


def read_sweep(record: StudyRecord, journal: Path, warn: Callable[[str], None] = lambda _: None) -> Sweep:
    """Read a study's sweep, with its runs from the journal at `journal`.

    A trial whose run is missing, damaged, or of an earlier study of the same name, has no losses and times. Warn of a
    damaged one.
    """
    folder = journal / record.name
    trials: list[SweptTrial] = []
    started: dict[str, Any] = {}  # the first event of the first run found
    metric = metric_of(record.settings)
    rows = [row for row in record.rows if row.copy_of is None]
    for row in rows:  # one run at a time: the events of ten thousand take hundreds of megabytes
        events = _events(folder / f"{row.number:04d}", warn)
        if events and events[0]["key"] != f"{record.uid}/{row.number}":
            events = []
        started = started or (events[0] if events else {})
        trials.append(_trial(row, events, record.curves.get(row.number, {}), metric))
    profile = started.get("dataset", {}).get("profile", {})
    finalists = _finalists(folder, record.uid, metric, warn)
    return Sweep(
        name=record.name,
        settings=record.settings,
        trials=trials,
        importances=record.importances,
        champion=_champion(folder, record.uid, warn),
        tags=started.get("tags", {}),
        images={name: profile[name] for name in ("train_images", "val_images") if isinstance(profile.get(name), int)},
        began=record.began,
        ended=record.ended,
        finalists=standings({key: [run[metric.final] for run in runs] for key, runs in finalists.items()}, metric),
        finalist_accuracies={key: mean(run.get(ACCURACY.final) for run in runs) for key, runs in finalists.items()},
        copies=len(record.rows) - len(rows),
    )


def valued(trials: Iterable[SweptTrial], state: str) -> list[SweptTrial]:
    """Return the trials of one state that have a finite value, by number."""
    return sorted((t for t in trials if t.state == state and math.isfinite(t.score)), key=lambda t: t.number)


def _configurations(trials: Iterable[SweptTrial], metric: Metric) -> list[Configuration]:
    return [Configuration(*each) for each in by_configuration(valued(trials, "complete"), metric)]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that there are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _trial(row: TrialRow, events: list[dict[str, Any]], curve: Mapping[int, float], metric: Metric) -> SweptTrial:
    reported = [{"epoch": float(epoch), metric.name: value} for epoch, value in sorted(curve.items())]
    epochs = history(events) or reported
    final = epochs[-1] if epochs else {}
    times = [epoch["time/epoch_s"] for epoch in epochs if "time/epoch_s" in epoch]
    return SweptTrial(
        number=row.number,
        state=row.state,
        value=row.value,
        loss=row.loss if row.loss is not None else final.get(LOSS.name),
        params=row.params,
        epochs=epochs,
        seconds=sum(times) if times else row.seconds,
        reason=row.reason,
        accuracy=row.accuracy if row.accuracy is not None else final.get(ACCURACY.name),
    )


def _events(folder: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """Read the events of a run. Warn of a damaged one, which has none."""
    try:
        return read_events(folder)
    except RecordError as error:
        warn(str(error))
        return []


def _champion(folder: Path, uid: str, warn: Callable[[str], None]) -> Champion | None:
    """Read the champion that was evaluated last, if any. Warn of a damaged one."""
    found = [run for run in finished_of(folder, uid, "champion", warn) if run.which.isdecimal()]
    if not found:
        return None
    last = max(found, key=lambda each: each.time)
    run, trial = last.folder, int(last.which)
    metrics = with_interval(last.metrics, last.val_images)
    try:
        rows = list(csv.reader(io.StringIO((_file(run, "confusion.csv") or b"").decode())))[1:]
        confusion = [[int(count) for count in row[1:-1]] for row in rows]
        classes = [row[0] for row in rows]
        errors = _file(run, "errors.png")
    except (RecordError, ValueError, IndexError, csv.Error) as error:
        warn(f"{run}: {error}")
        classes, confusion, errors = [], [], None
    return Champion(trial, metrics, classes, confusion, errors)


def _finalists(
    folder: Path, uid: str, metric: Metric, warn: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:  # fmt: skip
    """Return the final metrics of each finalist's complete runs with fresh seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for run in finished_of(folder, uid, "finalist", warn):
        if run.tags.get("sweeper.state") == "complete" and metric.final in run.metrics:
            found.setdefault(run.which.partition("/")[0], []).append(run.metrics)
    return found


def _file(run: Path, name: str) -> bytes | None:
    """Read a file of the evaluation; None where there is none."""
    try:
        return read_inside(run, f"{ARTIFACTS}/evaluation/{name}", MOST_FILE)
    except FileNotFoundError:
        return None
