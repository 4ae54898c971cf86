"""When a trial is not worth its other epochs: Optuna's percentile rule, without reading every trial at every epoch."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, Protocol

STARTUP: Final = 5
WARM_UP: Final = 3


class Pruner(Protocol):
    """Judges a trial by the complete ones."""

    def complete(self, values: Mapping[int, float]) -> None:
        """A trial is complete; its values by epoch."""

    def prunes(self, values: Mapping[int, float]) -> bool:
        """Whether a trial ends early, which has these values, by epoch, until now."""


class Nothing:
    """Prunes nothing."""

    def complete(self, values: Mapping[int, float]) -> None:
        """It is of no interest."""

    def prunes(self, values: Mapping[int, float]) -> bool:
        """No."""
        return False


class Percentile:
    """Prunes a trial whose best value lies below a percentile of the complete trials' values at the same epoch.

    The answers are those of `optuna.pruners.PercentilePruner(keep, startup, warm_up)` where values are to be large and
    finite, and are reported in the order of the epochs. That one reads all trials each time, in a time that grows with
    their number; here the values of each epoch are kept in order.

    Args:
        keep: percent of the trials that go on, from the best one.
        startup: complete trials before any is pruned.
        warm_up: the first epoch after which one is.
    """

    def __init__(self, keep: float, startup: int = STARTUP, warm_up: int = WARM_UP) -> None:
        self._share, self._startup, self._warm_up = (100 - keep) / 100, startup, warm_up
        self._complete = 0
        self._values: defaultdict[int, list[float]] = defaultdict(list)  # of complete trials by epoch, in order

    def complete(self, values: Mapping[int, float]) -> None:
        """A trial is complete; its values by epoch."""
        self._complete += 1
        for epoch, value in values.items():
            bisect.insort(self._values[epoch], value)

    def prunes(self, values: Mapping[int, float]) -> bool:
        """Whether a trial ends early, which has these values, by epoch, until now."""
        epoch = max(values, default=0)
        others = self._values.get(epoch)
        if self._complete < self._startup or epoch < self._warm_up or not others:
            return False
        return max(values.values()) < quantile(others, self._share)


def quantile(values: list[float], share: float) -> float:
    """The value below which a `share` of the ordered `values` lies, by linear interpolation between neighbours (method
    7 of Hyndman and Fan 1996), rounded as `numpy.quantile` does."""
    position = (len(values) - 1) * share
    below = int(position)
    low, high, part = values[below], values[min(below + 1, len(values) - 1)], position - below
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


PRUNERS: Final[dict[str, Callable[[], Pruner]]] = {
    "percentile": lambda: Percentile(75),
    "median": lambda: Percentile(50),
    "none": Nothing,
}
