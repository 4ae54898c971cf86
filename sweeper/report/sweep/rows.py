"""A sweep as tuples, read from its study and its journal."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import ARTIFACTS, history, read_events

if TYPE_CHECKING:
    from sweeper.study.importance import Importance
    from sweeper.study.rows import StudyRecord, TrialRow


class SweptTrial(NamedTuple):
    """One trial as its study recorded it and, where the journal has its run, its training by epoch."""

    number: int
    state: str  # complete, pruned, running or failed
    value: float | None  # validation accuracy in [0, 1]; of a pruned trial the last one reported
    loss: float | None  # validation loss in nats, at the same epoch
    params: Mapping[str, float | int | str]
    epochs: Sequence[Mapping[str, float]]  # `epoch`, `val/accuracy`; other metrics where the journal has the run
    seconds: float | None  # of training and evaluation
    reason: str
    copy_of: int | None  # the trial that it duplicates, and whose result it was given

    @property
    def accuracy(self) -> float:
        """Return the value, NaN where there is none."""
        return math.nan if self.value is None else self.value


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
    trials: list[SweptTrial]  # by number
    importances: Sequence[Importance]
    champion: Champion | None
    tags: Mapping[str, str]  # of a trial's run in MLflow
    images: Mapping[str, int]  # train_images, val_images
    began: dt.datetime | None
    ended: dt.datetime | None

    def ranked(self) -> list[SweptTrial]:
        """Return the complete trials, best first, ties by loss, then by number, as the study decides."""
        return sorted(valued(self.trials, "complete"), key=lambda t: (-t.accuracy, t.loss or 0.0, t.number))

    @property
    def parameters(self) -> list[str]:
        """Return the parameters that any trial has, in the order of asking."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))


def read_sweep(record: StudyRecord, journal: Path) -> Sweep:
    """Read a study's sweep, with its runs from the journal at `journal`.

    A trial whose run is missing, or belongs to an earlier study of the same name, has no losses and times.
    """
    folder = journal / record.name
    trials: list[SweptTrial] = []
    started: dict[str, Any] = {}  # the first event of the first run found
    for row in record.rows:  # one run at a time: the events of ten thousand take hundreds of megabytes
        events = read_events(folder / f"{row.number:04d}")
        if events and events[0]["key"] != f"{record.uid}/{row.number}":
            events = []
        started = started or (events[0] if events else {})
        trials.append(_trial(row, events, record.curves.get(row.number, {})))
    profile = started.get("dataset", {}).get("profile", {})
    return Sweep(
        name=record.name,
        settings=record.settings,
        trials=trials,
        importances=record.importances,
        champion=_champion(folder, record.uid),
        tags=started.get("tags", {}),
        images={name: profile[name] for name in ("train_images", "val_images") if name in profile},
        began=record.began,
        ended=record.ended,
    )


def valued(trials: Iterable[SweptTrial], state: str) -> list[SweptTrial]:
    """Return the trials of one state that have a finite value, by number."""
    return sorted((t for t in trials if t.state == state and math.isfinite(t.accuracy)), key=lambda t: t.number)


def distinct(trials: Sequence[SweptTrial]) -> list[SweptTrial]:
    """Return the trials without those that repeat the parameters of an earlier one."""
    first: dict[tuple[tuple[str, Any], ...], SweptTrial] = {}
    for trial in trials:
        first.setdefault(tuple(sorted(trial.params.items())), trial)
    return list(first.values())


def _trial(row: TrialRow, events: list[dict[str, Any]], curve: Mapping[int, float]) -> SweptTrial:
    reported = [{"epoch": float(epoch), "val/accuracy": value} for epoch, value in sorted(curve.items())]
    epochs = history(events) or reported
    final = epochs[-1] if epochs else {}
    times = [epoch["time/epoch_s"] for epoch in epochs if "time/epoch_s" in epoch]
    tags = events[-1].get("tags", {}) if events else {}
    copied = tags.get("sweeper.copy_of")
    return SweptTrial(
        number=row.number,
        state=row.state,
        value=row.value,
        loss=row.loss if row.loss is not None else final.get("val/loss"),
        params=row.params,
        epochs=epochs,
        seconds=sum(times) if times else None if copied else row.seconds,
        reason=row.reason,
        copy_of=None if copied is None else int(copied),
    )


def _champion(folder: Path, uid: str) -> Champion | None:
    """Read the champion that was evaluated last, if any."""
    found = []
    for run in folder.glob("champion-*"):
        events = read_events(run)
        ends = [event for event in events if event["event"] == "end" and event["status"] == FINISHED]
        if ends and events[0]["key"].startswith(f"{uid}/champion/"):
            found.append((ends[-1]["time"], run, int(events[0]["key"].rpartition("/")[2]), ends[-1]["metrics"]))
    if not found:
        return None
    _, run, trial, metrics = max(found, key=lambda entry: entry[0])
    files = run / ARTIFACTS / "evaluation"
    errors = files / "errors.png"
    rows = _table(files / "confusion.csv")
    return Champion(
        trial,
        metrics,
        classes=[row[0] for row in rows],
        confusion=[[int(count) for count in row[1:-1]] for row in rows],
        errors=errors.read_bytes() if errors.is_file() else None,
    )


def _table(path: Path) -> list[list[str]]:
    """Read a CSV file's rows below its header; none where there is no file."""
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))[1:] if path.is_file() else []
