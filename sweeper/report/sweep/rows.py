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
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import ARTIFACTS, history, read_events, val_images

if TYPE_CHECKING:
    from sweeper.study.importance import Importance
    from sweeper.study.rows import StudyRecord, TrialRow


MOST_FILE: Final = 10_000_000  # bytes of a file that the report shows


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


def read_sweep(record: StudyRecord, journal: Path, warn: Callable[[str], None] = lambda _: None) -> Sweep:
    """Read a study's sweep, with its runs from the journal at `journal`.

    A trial whose run is missing, damaged, or of an earlier study of the same name, has no losses and times. Warn of a
    damaged one.
    """
    folder = journal / record.name
    trials: list[SweptTrial] = []
    started: dict[str, Any] = {}  # the first event of the first run found
    for row in record.rows:  # one run at a time: the events of ten thousand take hundreds of megabytes
        events = _events(folder / f"{row.number:04d}", warn)
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
        champion=_champion(folder, record.uid, warn),
        tags=started.get("tags", {}),
        images={name: profile[name] for name in ("train_images", "val_images") if isinstance(profile.get(name), int)},
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
        copy_of=int(copied) if copied and copied.isdecimal() else None,
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
    found = []
    for run in sorted(folder.glob("champion-*")):
        events = _events(run, warn)
        ends = [event for event in events if event["event"] == "end" and event["status"] == FINISHED]
        number = events[0]["key"].rpartition("/")[2] if ends else ""
        if number.isdecimal() and events[0]["key"] == f"{uid}/champion/{number}":
            metrics = with_interval(ends[-1]["metrics"], val_images(events))
            found.append((ends[-1]["time"], run, int(number), metrics))
    if not found:
        return None
    _, run, trial, metrics = max(found, key=lambda entry: entry[0])
    try:
        rows = list(csv.reader(io.StringIO((_file(run, "confusion.csv") or b"").decode())))[1:]
        confusion = [[int(count) for count in row[1:-1]] for row in rows]
        classes = [row[0] for row in rows]
        errors = _file(run, "errors.png")
    except (RecordError, ValueError, IndexError, csv.Error) as error:
        warn(f"{run}: {error}")
        classes, confusion, errors = [], [], None
    return Champion(trial, metrics, classes, confusion, errors)


def _file(run: Path, name: str) -> bytes | None:
    """Read a file of the evaluation; None where there is none."""
    try:
        return read_inside(run, f"{ARTIFACTS}/evaluation/{name}", MOST_FILE)
    except FileNotFoundError:
        return None
