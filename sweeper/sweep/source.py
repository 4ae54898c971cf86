"""Where the driver gets its trials: a study, or a fixed list."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sweeper.core.config import RunConfig
from sweeper.core.errors import (
    TrainingError,
)
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial


class Source(Protocol):
    """Where trials come from, and where their outcomes go: a study, or a fixed list."""

    def together(self) -> AbstractContextManager[None]:
        """Within the block, what is asked outlasts this process after `begin`, and what is told of it after `settle`;
        an error that ends the block drops what is neither."""

    def begin(self) -> None:
        """Make the trials that were asked since the last call outlast this process."""

    def finished(self) -> int:
        """Number of trials that are complete or pruned."""

    def unfinished(self) -> Iterator[Trial]:
        """Trials that an earlier driver left running."""

    def ask(self) -> Trial | None:
        """A new trial, or None where there are no more, as in a list some of which failed."""

    def report(self, number: int, step: int, value: float) -> bool:
        """Record an intermediate value; True asks to prune."""

    def settle(self) -> None:
        """Make what was told since the last call outlast this process."""

    def complete(self, number: int, accuracy: float, loss: float) -> None:
        """A trial reached its end."""

    def prune(self, number: int, reason: str) -> None:
        """A trial was stopped early, or diverged."""

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """A trial could not be trained; `details` is the traceback, or empty."""


class Fixed:
    """A list of configurations as a source: `sweeper train` is a sweep of one."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._configs = list(configs)
        self._asked = 0
        self._finished = 0
        self.outcomes: dict[int, str] = {}

    def together(self) -> AbstractContextManager[None]:
        """A list is not kept."""
        return contextlib.nullcontext()

    def begin(self) -> None:
        """A list is not kept."""

    def finished(self) -> int:
        """Number of configurations that are done."""
        return self._finished

    def unfinished(self) -> Iterator[Trial]:
        """None: a list is not kept."""
        return iter(())

    def ask(self) -> Trial:
        """The next configuration."""
        self._asked += 1
        return Trial(self._asked - 1, self._configs[self._asked - 1])

    def report(self, number: int, step: int, value: float) -> bool:
        """Nothing is pruned."""
        return False

    def settle(self) -> None:
        """Nothing was kept."""

    def complete(self, number: int, accuracy: float, loss: float) -> None:
        """Count it."""
        self._finished += 1

    def prune(self, number: int, reason: str) -> None:
        """It diverged."""
        self._finished += 1
        self.outcomes[number] = reason

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """A list has no replacement to offer: the error ends it."""
        raise TrainingError(reason)


class View(Protocol):
    """Whoever shows progress."""

    def started(self, trial: Trial) -> None:
        """A trial begins."""

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """An epoch has ended."""

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """A trial is over: complete, pruned, failed, lost."""

    def tick(self) -> None:
        """Time has passed."""
