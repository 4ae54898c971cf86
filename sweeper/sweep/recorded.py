"""The runs below a journal folder as they stand, for `sweeper status` of an advice or a reproduction."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.core.text import counted, duration
from sweeper.study.control import PAUSE
from sweeper.sweep.folder import is_held, orders
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_all_events


class Begun(NamedTuple):
    """A run that was begun. `accuracy` is that of its last epoch, None before there is one; times are in s since 1970.

    `finished` is True if it needs no further training: it is complete, was stopped early, or diverged.
    """

    folder: str  # below that of the command
    finished: bool
    ended: bool  # also if it was killed
    epochs: int  # that it has
    of: int  # epochs that it was planned to have
    accuracy: float | None
    since: float
    until: float


class Standing(NamedTuple):
    """The runs below a journal folder, and the state of the command that trains them."""

    driven: bool
    paused: bool
    runs: Sequence[Begun]

    @property
    def running(self) -> list[Begun]:
        """The runs in progress."""
        return [run for run in self.runs if self.driven and not run.ended]

    @property
    def how(self) -> str:
        """The state of the command, in a word."""
        return "paused" if self.paused else "running" if self.driven else "not running"

    def seconds(self, after: float = -math.inf) -> float:
        """The time after a moment, in seconds since 1970, during which at least one run was training."""
        now = time.time() if self.driven else -math.inf
        spans = [(run.since, run.until if run.ended else max(now, run.until)) for run in self.runs]
        return covered_seconds((max(since, after), until) for since, until in spans if until > after)

    def running_lines(self) -> list[str]:
        """A line for each run in progress; what was interrupted is only counted."""
        if not self.driven:
            lost = sum(not run.finished for run in self.runs)
            return [f"  {counted(lost, 'run')} interrupted"] if lost else []
        return [
            f"  {run.folder}: epoch {run.epochs}/{run.of}"
            + ("" if run.accuracy is None else f", val accuracy {run.accuracy:.4f}")
            + f", {duration(time.time() - run.since)}"
            for run in self.running
        ]

    def plain(self) -> dict[str, Any]:
        """Return the state for JSON."""
        running = [
            {"run": run.folder, "epochs": run.epochs, "of": run.of, "accuracy": run.accuracy} for run in self.running
        ]
        return {"driven": self.driven, "paused": self.paused, "running": running}


def standing(journal: Path, name: str) -> Standing:
    """Read the runs below the journal folder of a command, and whether it is running."""
    root, driven = journal / name, is_held(journal, name)
    found = read_all_events(root, lambda _: None)
    runs = [_begun(str(folder.relative_to(root)), events) for folder, events in found if events]
    return Standing(driven, driven and orders(root).wanted == PAUSE, runs)


def _begun(folder: str, events: list[dict[str, Any]]) -> Begun:
    starts = [number for number, event in enumerate(events) if event["event"] == "start"]
    last = events[starts[-1] :]
    epochs = [event for event in last if event["event"] == "epoch"]
    end = last[-1] if last[-1]["event"] == "end" else None
    return Begun(
        folder, finished=end is not None and end["status"] == FINISHED, ended=end is not None,
        epochs=epochs[-1]["step"] if epochs else 0, of=int(last[0]["params"].get("epochs", 0)),
        accuracy=epochs[-1]["metrics"].get("val/accuracy") if epochs else None,
        since=last[0]["time"] / 1000, until=last[-1]["time"] / 1000,
    )  # fmt: skip


def covered_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that at least one of the spans covers: pauses between commands do not count."""
    total, until = 0.0, -math.inf
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total
