"""A study as rows: one a trial, and the best of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from sweeper.study.importance import Importance, importance_intervals

STATES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",  # enqueued, and not begun
}


class TrialRow(NamedTuple):
    """One trial as a study records it."""

    number: int
    state: str  # a value of STATES
    value: float | None  # validation accuracy: final, or the last reported
    loss: float | None
    params: Mapping[str, Any]
    epochs: int
    seconds: float | None
    reason: str


def trial_row(frozen: FrozenTrial) -> TrialRow:
    """Return a trial as a row."""
    steps = frozen.intermediate_values
    last = steps[max(steps)] if steps else None
    end = frozen.datetime_complete or dt.datetime.now()
    started = frozen.datetime_start
    return TrialRow(
        number=frozen.number,
        state=STATES[frozen.state],
        value=frozen.value if frozen.state == TrialState.COMPLETE else last,
        loss=frozen.user_attrs.get("val_loss"),
        params=frozen.params,
        epochs=len(steps),
        seconds=elapsed(started, end) if started else None,
        reason=str(frozen.user_attrs.get("reason", "")),
    )


def elapsed(start: dt.datetime, end: dt.datetime) -> float:
    """Return the seconds between two of Optuna's times, which are local and without a zone.

    The end of summer time repeats an hour: the shortest time that fits is taken.
    """
    folds = [(first, second) for first in (0, 1) for second in (0, 1)]
    found = [end.replace(fold=second).timestamp() - start.replace(fold=first).timestamp() for first, second in folds]
    return min((round(seconds, 6) for seconds in found if seconds >= 0), default=0.0)


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the complete trial of highest accuracy, ties by loss, then by number; None if there is none."""
    complete = [r for r in rows if r.state == "complete" and r.value is not None]
    return max(complete, key=lambda r: (r.value, -(r.loss or 0.0), -r.number), default=None)


class StudyRecord(NamedTuple):
    """A study with all that it holds."""

    name: str
    uid: str
    settings: Mapping[str, Any]
    rows: list[TrialRow]
    curves: Mapping[int, Mapping[int, float]]  # validation accuracy by trial and epoch
    importances: list[Importance]
    began: dt.datetime | None  # in the time of the machine that drove it
    ended: dt.datetime | None


def study_record(name: str, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StudyRecord:
    """Return a study's record from its attributes and trials."""
    return StudyRecord(
        name=name,
        uid=str(attributes.get("uid", "")),
        settings=attributes.get("settings", {}),
        rows=[trial_row(frozen) for frozen in trials],
        curves={frozen.number: frozen.intermediate_values for frozen in trials},
        importances=importance_intervals(trials),
        began=min((t.datetime_start for t in trials if t.datetime_start), default=None),
        ended=max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
    )
