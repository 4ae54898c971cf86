"""The interface of trackers and their logs. The base classes record nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sweeper.core.results import EpochResult

THREADS_TAG: Final = "sweeper.threads"  # of a run: the number of threads it computed with
ENGINE_TAG: Final = "sweeper.engine"
# Tags of everything besides its parameters that the bits of a run depend on.
SURROUNDINGS: Final = (
    THREADS_TAG, ENGINE_TAG, "sweeper.hardware", "sweeper.versions", "mlflow.source.git.commit", "sweeper.git.changed",
)  # fmt: skip
FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"  # MLflow's names


@dataclass(frozen=True)
class RunInfo:
    """A run before it starts. Starting one with the same `key` again continues it."""

    key: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
    folder: str  # below the journal's root, such as "demo/0007"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None  # an MLflow run that exists already
    files: Mapping[str, bytes] = field(default_factory=dict)  # recorded as the run starts, by name


class RunLog:
    """The log of one run. This one records nothing."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one epoch. A step that was recorded before keeps its values."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the outcome: FINISHED, FAILED or KILLED."""


class Recorded(NamedTuple):
    """The record of a run that has ended: its epochs, and the metrics and tags of its end."""

    epochs: list[EpochResult]
    final: dict[str, float]
    tags: dict[str, str]


class Record(NamedTuple):
    """The record of a run's last attempt, to train it again. Epochs are by number.

    `earlier` has those of earlier attempts that may have other bits. `stacked` is True if an earlier version trained
    some epochs in a stack.
    """

    params: dict[str, str]
    tags: dict[str, str]
    epochs: dict[int, EpochResult]
    earlier: dict[int, EpochResult]
    stacked: bool


class Tracker:
    """Records runs. This one records nothing."""

    def recorded(self, run: RunInfo) -> Recorded | None:
        """Return the record of the run, or None if it has none or has not finished."""
        return None

    def start(self, run: RunInfo) -> RunLog:
        """Start, or continue, a run."""
        return RunLog()

    def together(self) -> AbstractContextManager[None]:
        """Allow events to be recorded late within the block, but no later than its end."""
        return contextlib.nullcontext()

    def reconcile(self, below: str) -> None:
        """End the runs below a folder whose process is gone, as killed."""

    def catch_up(self, below: str) -> None:
        """Upload the runs below a folder that earlier processes recorded and did not upload."""

    def check(self) -> None:
        """Raise an error if no run can ever be uploaded."""

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the uploads, and return the number of runs that are not uploaded."""
        return 0


class NullTracker(Tracker):
    """No tracking, as `--tracking-uri none` asks for."""
