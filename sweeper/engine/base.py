"""The contract of engines, which run trainings and hand out what they yield, in order for each of them.

An engine decides nothing: the driver submits, waits, and cancels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sweeper.core.config import RunConfig
from sweeper.core.errors import TrainingError, UsageError
from sweeper.core.results import EpochResult, TrainResult


class Event(NamedTuple):
    """A step or the end of the training submitted as `key`.

    A `TrainingError` ends that training; a `UsageError` says that no training of its kind can work.
    """

    key: int
    what: EpochResult | TrainResult | TrainingError | UsageError


class Engine(Protocol):
    """Runs trainings. After a `TrainResult` or an error a key is done."""

    slots: int
    interruptible: bool  # a signal handler may raise inside `wait`; if not, `wait` returns within about `timeout`

    def free(self) -> int:
        """Return how many more trainings could begin at once."""

    def submit(self, key: int, config: RunConfig) -> None:
        """Begin a training; `free()` must be above 0."""

    def wait(self, timeout: float) -> list[Event]:
        """Return the events since the last call, after waiting up to `timeout` seconds for the first of them.

        The next call lets the trainings of these events go on, unless they were cancelled.
        """

    def cancel(self, key: int) -> None:
        """Close a training; no more events of it are handed out."""

    def hold(self) -> None:
        """Let no training go far beyond the epoch that it is in, until the next `wait`."""

    def release(self) -> None:
        """End all trainings, and give back the memory of workers until the next `submit`."""

    def resize(self, slots: int) -> None:
        """Run up to `slots` trainings at a time from now on, if the engine can run several; those that run go on."""

    def close(self) -> None:
        """End everything at once."""
