"""The contract of engines: they train runs and hand out what each yields, in order.

An engine decides nothing: the driver submits, waits, and cancels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sweeper.core.config import RunConfig
from sweeper.core.errors import TrainingError, UsageError
from sweeper.core.results import EpochResult, TrainResult


class Event(NamedTuple):
    """A step or the end of the training submitted as `key`.

    A `TrainingError` ends that run; a `UsageError` means that no run of its kind can work.
    """

    key: int
    what: EpochResult | TrainResult | TrainingError | UsageError


class Engine(Protocol):
    """Trains runs. After a `TrainResult` or an error, a key is done."""

    slots: int
    interruptible: bool  # a signal handler may raise inside `wait`; if not, `wait` returns within about `timeout`

    def free(self) -> int:
        """Return how many more runs could start now."""

    def submit(self, key: int, config: RunConfig) -> None:
        """Start a run; `free()` must be above 0."""

    def wait(self, timeout: float) -> list[Event]:
        """Return the events since the last call, after waiting up to `timeout` seconds for the first of them.

        The next call lets the runs of these events continue, unless they were cancelled.
        """

    def cancel(self, key: int) -> None:
        """Close a run; no more of its events are handed out."""

    def hold(self) -> None:
        """Keep every run from going far beyond its current epoch, until the next `wait`."""

    def release(self) -> None:
        """End all runs, and free the memory of workers until the next `submit`."""

    def resize(self, slots: int) -> None:
        """Train up to `slots` runs at a time from now on, if the engine can; running ones continue."""

    def close(self) -> None:
        """End everything at once."""
