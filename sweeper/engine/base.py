"""What every engine promises.

An engine runs trainings and hands out what they yield, in order for each of them. It decides
nothing: the driver submits, waits, and cancels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sweeper.core.config import RunConfig
from sweeper.core.errors import TrainingError, UsageError
from sweeper.core.results import EpochResult, TrainResult


class Event(NamedTuple):
    """Something that the training submitted as `key` has come to.

    A `TrainingError` is the end of that training, a `UsageError` says that no training of its kind can work.
    """

    key: int
    what: EpochResult | TrainResult | TrainingError | UsageError


class Engine(Protocol):
    """Runs trainings. After a `TrainResult` or an error a key is done."""

    slots: int

    def free(self) -> int:
        """How many more trainings could begin at once."""

    def submit(self, key: int, config: RunConfig) -> None:
        """Begin a training; `free()` must be above 0."""

    def wait(self, timeout: float) -> list[Event]:
        """What has happened since the last call, waiting up to `timeout` seconds for the first of it.

        Calling it again lets the trainings whose epochs it returned go on, unless they were cancelled.
        """

    def cancel(self, key: int) -> None:
        """Close a training; no more events of it are handed out."""

    def close(self) -> None:
        """End everything, at once."""
