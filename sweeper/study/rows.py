"""A study as rows: one a trial, and the best of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.study.importance import Importance, importance_intervals


class TrialRow(NamedTuple):
    """One trial as a study records it."""

    number: int
    state: str  # complete, pruned, running, failed; waiting, if it was enqueued and not begun
    value: float | None  # validation accuracy: final, or the last reported
    loss: float | None
    params: Mapping[str, Any]
    epochs: int
    seconds: float | None
    reason: str


def best_row(rows: list[TrialRow]) -> TrialRow | None:
    """The complete trial of highest accuracy, ties by loss, then by number; None if there is none."""
    complete = [r for r in rows if r.state == "complete" and r.value is not None]
    return max(complete, key=lambda r: (r.value, -(r.loss or 0.0), -r.number), default=None)


def _row(frozen: FrozenTrial) -> TrialRow:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
              TrialState.WAITING: "waiting", TrialState.RUNNING: "running"}  # fmt: skip
    state = states[frozen.state]
    steps = frozen.intermediate_values
    last = steps[max(steps)] if steps else None
    end = frozen.datetime_complete or dt.datetime.now()
    started = frozen.datetime_start
    return TrialRow(
        number=frozen.number,
        state=state,
        value=frozen.value if state == "complete" else last,
        loss=frozen.user_attrs.get("val_loss"),
        params=frozen.params,
        epochs=len(steps),
        seconds=(end - started).total_seconds() if started else None,
        reason=str(frozen.user_attrs.get("reason", "")),
    )


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


def _record(study: optuna.Study) -> StudyRecord:
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    return StudyRecord(
        name=study.study_name,
        uid=str(attrs.get("uid", "")),
        settings=attrs.get("settings", {}),
        rows=[_row(frozen) for frozen in trials],
        curves={frozen.number: frozen.intermediate_values for frozen in trials},
        importances=importance_intervals(study),
        began=min((t.datetime_start for t in trials if t.datetime_start), default=None),
        ended=max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
    )
