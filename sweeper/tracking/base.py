"""The contract of trackers and of the logs that they give, and the tracker that forgets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

THREADS_TAG: Final = "sweeper.threads"  # of a run: threads of its computations
ENGINE_TAG: Final = "sweeper.engine"
# What the bits of a training depend on besides its parameters.
SURROUNDINGS: Final = (
    THREADS_TAG, ENGINE_TAG, "sweeper.hardware", "sweeper.versions", "mlflow.source.git.commit", "sweeper.git.changed",
)  # fmt: skip
FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"  # MLflow's names


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it starts.

    `key` identifies it for ever: starting the same key again continues the same run.
    """

    key: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
    folder: str  # below the journal's root, such as "demo/0007"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None  # an MLflow run that exists already


class RunLog(Protocol):
    """Where one run writes what happens to it."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one epoch; a step that is recorded already stays as it is."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the outcome: FINISHED, FAILED or KILLED."""


class Recorded(NamedTuple):
    """What is recorded of a finished run: the metrics of each epoch by its number; metrics and tags of its end."""

    epochs: dict[int, dict[str, float]]
    final: dict[str, float]
    tags: dict[str, str]


class Record(NamedTuple):
    """A run as its last attempt was recorded, to be trained again: parameters, tags, and the metrics of each epoch by
    its number.

    `earlier` has the epochs that an attempt before it recorded, or may have, whose bits may have been others.
    """

    params: dict[str, str]
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]
    earlier: dict[int, dict[str, float]]


class Tracker(Protocol):
    """Where runs are recorded."""

    def recorded(self, run: RunInfo) -> Recorded | None:
        """What is recorded of the run, or None if it is not there or has not finished."""

    def start(self, run: RunInfo) -> RunLog:
        """Begin, or continue, a run."""

    def together(self) -> AbstractContextManager[None]:
        """Within the block, what happens to runs may be recorded late, but not later than its end."""

    def reconcile(self, below: str) -> None:
        """End, as killed, the runs below a folder that processes which are gone left without an end."""

    def catch_up(self, below: str) -> None:
        """Let arrive what earlier processes recorded below a folder and could not bring where it belongs."""

    def check(self) -> None:
        """Raise if nothing that is recorded can ever arrive."""

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds until all has arrived; the number of runs that have not."""


class NullLog:
    """Forgets everything."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Forget."""

    def artifact(self, name: str, content: bytes) -> None:
        """Forget."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Forget."""


class NullTracker:
    """No tracking."""

    def recorded(self, run: RunInfo) -> Recorded | None:
        """Nothing."""
        return None

    def start(self, run: RunInfo) -> RunLog:
        """A log that forgets everything."""
        return NullLog()

    def together(self) -> AbstractContextManager[None]:
        """Nothing is late."""
        return contextlib.nullcontext()

    def reconcile(self, below: str) -> None:
        """Nothing was left."""

    def catch_up(self, below: str) -> None:
        """Nothing was recorded."""

    def check(self) -> None:
        """Nothing can go wrong."""

    def close(self, timeout: float) -> int:
        """Nothing to wait for."""
        return 0
