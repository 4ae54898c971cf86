"""The time of an advice: how much is used, how fast the latest epochs were, and how many runs still fit.

A pause does not count. The pace is that of all workers together, over the latest epochs of this command; before there
are enough of them, the one that was measured before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from sweeper.advice.pilot import affordable
from sweeper.advice.record import Ended, Record, Spent, busy_seconds

Clock = Callable[[], float]  # seconds since 1970


class Budget:
    """The time that one command may use, with what earlier ones used.

    Attributes:
        limit: seconds that all commands together may use.
        pace_before: epochs per second, until the pace is measured.
        window: number of the latest epochs over which the pace is measured; 0: it is not.
    """

    def __init__(self, limit: float, used: float = 0.0, clock: Clock = time.time) -> None:
        self.limit = limit
        self.clock = clock
        self._begun = clock() - used
        self._paused: float | None = None  # since when
        self._ticks: list[float] = []  # the time used at the end of each epoch
        self.pace_before, self.window = 0.0, 0

    def used(self) -> float:
        """The seconds used so far."""
        return (self.clock() if self._paused is None else self._paused) - self._begun

    def pause(self, paused: bool) -> None:
        """Stop the clock, or let it continue."""
        if paused and self._paused is None:
            self._paused = self.clock()
        elif not paused and self._paused is not None:
            self._begun += self.clock() - self._paused
            self._paused = None

    def tick(self) -> None:
        """Note the end of an epoch."""
        self._ticks.append(self.used())

    @property
    def pace(self) -> float:
        """Epochs per second of the latest epochs."""
        if not self.window or len(self._ticks) <= self.window:
            return self.pace_before
        return self.window / max(self._ticks[-1] - self._ticks[-1 - self.window], 1e-3)

    def room(self, epochs: int) -> int:
        """Return how many more runs of so many epochs to plan, with a reserve."""
        return affordable(max(0.0, self.limit - self.used()), self.pace, epochs)

    def fits(self, runs: int, epochs: int) -> bool:
        """Return True if so many runs, and the retraining of the recommendation, can end within the budget."""
        return self.used() + (runs + 1) * epochs / self.pace <= self.limit


def budget_of(record: Record, ended: Iterable[Ended], limit: float, clock: Clock = time.time) -> Budget:
    """Return the budget of a command that continues a record."""
    spent = record.spent or Spent(0.0, -math.inf)
    later = [run for run in ended if run.ended > spent.when]
    return Budget(limit, spent.seconds + busy_seconds(later), clock)
