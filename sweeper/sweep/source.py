"""Interfaces of a driver besides engine and tracker: a source of trials, and a view of progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from sweeper.core.metric import ACCURACY, Metric
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial


class Source(Protocol):
    """A source of trials that also receives their outcomes: a study, or a list."""

    @property
    def metric(self) -> Metric:
        """The metric that trials are compared by."""

    def together(self) -> AbstractContextManager[None]:
        """Make asked trials durable at `begin`, and reported outcomes at `settle`, within the block.

        An error that ends the block drops everything else.
        """

    def begin(self) -> None:
        """Persist the trials that were asked for since the last call."""

    def finished(self) -> int:
        """The number of complete and pruned trials."""

    def unfinished(self) -> Iterator[Trial]:
        """The trials that an earlier driver left running."""

    def ask(self) -> Trial | None:
        """The next trial, or None if there are no more."""

    def report(self, number: int, step: int, value: float) -> bool:
        """Record a value of its metric after an epoch. Returns True to ask for pruning."""

    def settle(self) -> None:
        """Persist everything reported since the last call."""

    def complete(self, number: int, final: Mapping[str, float]) -> None:
        """Record that a trial reached its end, with the final metrics of its run."""

    def prune(self, number: int, reason: str) -> None:
        """Record that a trial was stopped early or diverged."""

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """Record that a trial could not be trained; `details` is the traceback, or empty."""

    def skip(self, number: int, reason: str) -> None:
        """Record that an unwanted trial was ended."""


class Listed(Source):
    """A list of trials. It prunes none and keeps nothing on disk; outcomes are kept by the number of the trial."""

    metric: Metric = ACCURACY

    def __init__(self, trials: Iterable[Trial], finished: int = 0, metric: Metric = ACCURACY) -> None:
        self.metric = metric
        self._waiting = iter(trials)
        self._finished = finished  # including those before this list
        self.completed: dict[int, Mapping[str, float]] = {}  # the final metrics
        self.diverged: dict[int, str] = {}  # the reason
        self.failed: dict[int, str] = {}

    def together(self) -> AbstractContextManager[None]:
        """No-op."""
        return contextlib.nullcontext()

    def begin(self) -> None:
        """No-op."""

    def settle(self) -> None:
        """No-op."""

    def unfinished(self) -> Iterator[Trial]:
        """Nothing."""
        return iter(())

    def report(self, number: int, step: int, value: float) -> bool:
        """Never prune."""
        return False

    def finished(self) -> int:
        """The number of complete and diverged trials."""
        return self._finished

    def ask(self) -> Trial | None:
        """The next trial of the list."""
        return next(self._waiting, None)

    def complete(self, number: int, final: Mapping[str, float]) -> None:
        """Count a complete trial, and keep its outcome."""
        self._finished += 1
        self.completed[number] = final

    def prune(self, number: int, reason: str) -> None:
        """Count a trial that diverged."""
        self._finished += 1
        self.diverged[number] = reason

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """Keep the reason; the other trials continue."""
        self.failed[number] = reason

    def skip(self, number: int, reason: str) -> None:
        """Keep the reason, as of a failure."""
        self.failed[number] = reason


class View(Protocol):
    """A view of a sweep's progress."""

    def started(self, trial: Trial) -> None:
        """Show a trial that has started."""

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Show a finished epoch."""

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        """Show a trial that is complete, pruned, failed, killed, or lost for a reason."""

    def say(self, words: str) -> None:
        """Show a separate line."""

    def tick(self) -> None:
        """Redraw, from time to time."""
