"""A study as rows, one per trial, and the best of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from sweeper.core.metric import ACCURACY, LOSS, Metric, metric_of
from sweeper.study.evidence import Standing, by_configuration, mean_loss
from sweeper.study.importance import Importance, importances

STATES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",  # enqueued, not started
}
SKIPPED: Final = "skipped"  # a user attribute of a trial that was ended as not wanted


class TrialRow(NamedTuple):
    """One trial as a study records it."""

    number: int
    state: str  # a value of STATES, or skipped
    value: float | None  # of the metric that the study searches for: final, or the last reported
    loss: float | None
    params: Mapping[str, Any]
    epochs: int
    seconds: float | None
    reason: str
    copy_of: int | None = None  # the earlier trial whose result 0.1.0 copied without training
    accuracy: float | None = None  # of the validation images, where the study knows it


class Ranked(NamedTuple):
    """A configuration by its complete trials, one for each seed that was trained."""

    params: Mapping[str, Any]
    trials: tuple[int, ...]  # their numbers
    standing: Standing  # by the metric that the study searches for
    scores: Mapping[str, float]  # by key: of that metric the shrunken mean, of accuracy and loss otherwise the mean


def trial_rows(trials: Sequence[FrozenTrial], metric: Metric) -> list[TrialRow]:
    """Return the trials of a study that searches for `metric` as rows."""
    trained: dict[str, int] = {}  # the first complete trial of each key; only 0.1.0 recorded them
    rows = []
    for frozen in trials:
        row, key = _trial_row(frozen, metric), frozen.user_attrs.get("key")
        if key is not None and row.state == "complete":
            first = trained.setdefault(key, row.number)
            row = row._replace(copy_of=None if first == row.number else first)
        rows.append(row)
    return rows


def _trial_row(frozen: FrozenTrial, metric: Metric) -> TrialRow:
    steps = frozen.intermediate_values
    last = steps[max(steps)] if steps else None
    value = frozen.value if frozen.state == TrialState.COMPLETE else last
    end = frozen.datetime_complete or dt.datetime.now()
    started = frozen.datetime_start
    return TrialRow(
        number=frozen.number,
        state="skipped" if frozen.user_attrs.get(SKIPPED) else STATES[frozen.state],
        value=value,
        loss=frozen.user_attrs.get("val_loss"),
        params=frozen.params,
        epochs=len(steps),
        seconds=elapsed(started, end) if started else None,
        reason=str(frozen.user_attrs.get("reason", "")),
        accuracy=value if metric == ACCURACY else frozen.user_attrs.get("val_accuracy"),
    )


def elapsed(start: dt.datetime, end: dt.datetime) -> float:
    """Return the seconds between two of Optuna's times, which are local and without a zone.

    The end of summer time repeats an hour: the shortest time that fits is taken.
    """
    folds = [(first, second) for first in (0, 1) for second in (0, 1)]
    found = [end.replace(fold=second).timestamp() - start.replace(fold=first).timestamp() for first, second in folds]
    return min((round(seconds, 6) for seconds in found if seconds >= 0), default=0.0)


def ranking(rows: Iterable[TrialRow], metric: Metric) -> list[Ranked]:
    """Return the configurations that have complete trials, the best by `metric` first. Copies are left out."""
    complete = [row for row in rows if row.state == "complete" and row.value is not None and row.copy_of is None]
    found = []
    for alike, standing in by_configuration(complete, metric):
        scores = {ACCURACY.key: fmean(row.accuracy or 0.0 for row in alike), LOSS.key: mean_loss(alike)}
        scores[metric.key] = standing.shrunken
        found.append(Ranked(alike[0].params, tuple(row.number for row in alike), standing, scores))
    return found


class StudyRecord(NamedTuple):
    """A study with all that it holds."""

    name: str
    uid: str
    settings: Mapping[str, Any]
    rows: list[TrialRow]
    curves: Mapping[int, Mapping[int, float]]  # reported values by trial and epoch
    importances: list[Importance]
    began: dt.datetime | None  # in the time of the machine that drove it
    ended: dt.datetime | None


def study_record(name: str, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StudyRecord:
    """Return a study's record from its attributes and trials."""
    settings = attributes.get("settings", {})
    metric = metric_of(settings)
    rows = trial_rows(trials, metric)
    own = [frozen for frozen, row in zip(trials, rows, strict=True) if row.copy_of is None]
    return StudyRecord(
        name=name,
        uid=str(attributes.get("uid", "")),
        settings=settings,
        rows=rows,
        curves={frozen.number: frozen.intermediate_values for frozen in trials},
        importances=importances(own, metric),
        began=min((t.datetime_start for t in trials if t.datetime_start), default=None),
        ended=max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
    )
