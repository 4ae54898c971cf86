"""The record of `sweeper advise`: settings, plan and screening rounds, in `advice.json` next to the runs.

A round, and a plan that depends on the time, is recorded before the first run that follows from it, so that a resumed
command trains what an uninterrupted one would have.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pydantic

from sweeper.advice.design import Cell, Outcome, Plan, Run, Stage
from sweeper.advice.pilot import Limits
from sweeper.core.errors import StudyConflict, SweeperError
from sweeper.core.files import write_whole
from sweeper.core.placements import Placement
from sweeper.sweep.recorded import covered_seconds
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import history, read_all_events

FILE: Final = "advice.json"
MOST: Final = 10_000_000  # bytes


class Ended(NamedTuple):
    """A run that has ended, with its measurements from the journal."""

    run: Run
    folder: Path
    complete: bool
    epochs: Sequence[Mapping[str, float]]  # metrics of each epoch
    final: Mapping[str, float]
    begun: float  # seconds since 1970
    ended: float

    @property
    def outcome(self) -> Outcome:
        """The part of the result that the next runs depend on."""
        curve = [epoch["val/accuracy"] for epoch in self.epochs]
        return Outcome(self.final["final/val_accuracy"] if self.complete else None, curve)


class Spent(NamedTuple):
    """The seconds of the budget that were used at a time, in seconds since 1970."""

    seconds: float
    when: float


@pydantic.dataclasses.dataclass
class Record:
    """The content of `advice.json`."""

    uid: str
    settings: dict[str, Any]
    limits: Limits | None = None  # of the latest command
    pilot: int | None = None  # epochs of the pilot
    plan: Plan | None = None
    rounds: list[list[Run]] = pydantic.Field(default_factory=list)
    cells: dict[Placement, Cell | None] | None = None  # that are compared, once the screening is over
    due: int = 0  # number of runs of screening and comparison after which the remaining time is planned anew
    spent: Spent | None = None  # when it was saved last

    def key(self, run: Run) -> str:
        """Return the key of a run in journal and MLflow."""
        return f"{self.uid}/{run.stage}/{slug(run)}"

    def run(self, key: str) -> Run | None:
        """Return the run with this key; None if it belongs to something else."""
        uid, _, rest = key.partition("/")
        try:
            stage, placement, conv, head, lr, seed = rest.replace("/", "_").split("_")
            cell = Cell(Placement(placement), float(conv), float(head), float(lr.removeprefix("x")))
            return Run(cast("Stage", stage), cell, int(seed.removeprefix("s"))) if uid == self.uid else None
        except ValueError:
            return None


def slug(run: Run) -> str:
    """Return the name of a run's folder: placement, rates, multiple of the learning rate, seed."""
    cell = run.cell
    return f"{cell.placement.value}_{cell.conv_dropout}_{cell.head_dropout}_x{cell.lr}_s{run.seed}"


def open_record(folder: Path, settings: Mapping[str, Any], limits: Limits) -> Record:
    """Read the record, or make a new one, and write it with these limits.

    Raises:
        StudyConflict: it exists with other settings.
        SweeperError: the file is damaged.
    """
    if not (folder / FILE).exists():
        record = Record(uuid.uuid4().hex, dict(settings), limits)
        save(folder, record)
        return record
    record = read_record(folder)
    plain = json.loads(json.dumps(settings))
    if changed := [name for name in plain | record.settings if plain.get(name) != record.settings.get(name)]:
        was = "; ".join(f"{name} was {record.settings.get(name)!r}, is {plain.get(name)!r}" for name in changed)
        raise StudyConflict(
            f"advice {folder.name!r} exists with other settings: {was}. Use the old ones, or choose another --name."
        )
    record.limits = limits
    save(folder, record)
    return record


def save(folder: Path, record: Record) -> None:
    """Write the record."""
    content = pydantic.TypeAdapter(Record).dump_json(record, indent=1)
    write_whole(folder / FILE, content)


def ended_runs(folder: Path, record: Record) -> Iterator[Ended]:
    """Yield the runs that have ended: complete, stopped or diverged."""
    for path, events in read_all_events(folder, lambda _: None):
        run = record.run(events[0]["key"]) if events else None
        if run is None or events[-1]["event"] != "end" or events[-1]["status"] != FINISHED:
            continue
        starts = [event["time"] for event in events if event["event"] == "start"]
        complete = events[-1]["tags"].get("sweeper.state") == "complete"
        yield Ended(run, path, complete, history(events), events[-1]["metrics"], starts[-1] / 1000,
                    events[-1]["time"] / 1000)  # fmt: skip


def busy_seconds(runs: Iterable[Ended]) -> float:
    """Return the time during which at least one run was training: pauses between commands do not count."""
    return covered_seconds((run.begun, run.ended) for run in runs)


def read_record(folder: Path) -> Record:
    """Read the record.

    Raises:
        SweeperError: the file is missing or damaged.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > MOST:
            raise ValueError("the file is too large")
        return pydantic.TypeAdapter(Record).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SweeperError(f"could not read {path} ({reason}). Restore it, or choose another --name.") from None
