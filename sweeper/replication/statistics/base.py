"""Elementary tests of one number against one bound: p-values for both directions, intervals, power.

A test has a bound and a direction: the claim is that the number lies above the bound (+1) or below it (-1).
All p-values are one-sided and valid at the bound itself, so at most one of the two rejections can be an error. Every
alpha is one-sided: the interval with alpha 0.025 is the usual 95 % interval.

P-values are 1 where there are fewer than two runs, or where the runs do not vary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
UNKNOWN: Final[Interval] = (math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Sample:
    """Values of independent runs, `(n,)`."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        """NaN for no values."""
        return float(self.values.mean()) if len(self.values) else math.nan

    @cached_property
    def variance(self) -> float:
        """s^2, with n - 1; NaN for fewer than two values."""
        return float(self.values.var(ddof=1)) if len(self.values) > 1 else math.nan


class PValues(NamedTuple):
    """The p-values of two null hypotheses: that the claim is false, and that it is true."""

    support: float
    contradict: float


class Shown(NamedTuple):
    """The number that decides a claim, with its interval; NaN where there is none."""

    label: str = ""
    quantity: str = ""
    unit: str = ""
    direction: int = 1
    null: float = 0.0
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    method: str = ""
    counts: Mapping[str, int] = {}  # runs by arm


class Lacking(NamedTuple):
    """An arm with too few runs that have the measured quantity."""

    arm: str
    quantity: str


class Evidence(ABC):
    """One test, or several combined, for and against a claim."""

    @property
    @abstractmethod
    def p(self) -> PValues:
        """The p-values for and against the claim."""

    @abstractmethod
    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """The probability of a p-value of at most `alpha` with `n` seeds, if the current estimates are the truth."""

    @abstractmethod
    def shown(self, alpha: float) -> Shown:
        """The number to show; each side of its interval misses with probability at most `alpha`."""

    @abstractmethod
    def tests(self) -> Iterator[Test]:
        """The elementary tests."""

    @abstractmethod
    def lacking(self, least: int) -> Lacking | None:
        """The first arm with fewer than `least` usable runs; None if the evidence can be computed."""

    def facts(self) -> dict[str, float]:
        """Further numbers to report, by name."""
        return {}

    def premise_holds(self) -> bool:
        """False if the premise of the claim is shown to fail; then no number of seeds decides it."""
        return True


@dataclass(frozen=True, eq=False)
class Test(Evidence):
    """One number against one bound."""

    __test__ = False  # tells pytest that this is not one of the project's tests

    label: str
    unit: str
    direction: int  # +1: the claim is that the number lies above `null`; -1: below
    null: float
    counts: Mapping[str, int]  # runs by arm

    @property
    def quantity(self) -> str:
        """The measured quantity, without the arms."""
        return self.label.split(",")[0]

    @property
    @abstractmethod
    def method(self) -> str:
        """The name of the statistical test."""

    @property
    @abstractmethod
    def estimate(self) -> float:
        """The number; NaN where there is none."""

    @property
    @abstractmethod
    def tails(self) -> tuple[float, float]:
        """The p-values of the null hypotheses that the number is at most `null`, and that it is at least `null`."""

    @abstractmethod
    def interval(self, alpha: float) -> Interval:
        """Two-sided; each side misses with probability at most `alpha`. NaN where there is none."""

    @property
    def p(self) -> PValues:
        """The tails, in the order of the claimed direction."""
        above, below = self.tails
        return PValues(above, below) if self.direction > 0 else PValues(below, above)

    def excess(self, *, support: bool) -> float:
        """The distance of the estimate beyond `null`, on the side that supports or contradicts."""
        return (1 if support else -1) * self.direction * (self.estimate - self.null)

    def shown(self, alpha: float) -> Shown:
        """The estimate with its interval."""
        return Shown(self.label, self.quantity, self.unit, self.direction, self.null, self.estimate,
                     *self.interval(alpha), self.method, self.counts)  # fmt: skip

    def tests(self) -> Iterator[Test]:
        """Itself."""
        yield self

    def lacking(self, least: int) -> Lacking | None:
        """Compare the counts."""
        few = (arm for arm, count in self.counts.items() if count < least)
        return next((Lacking(arm, self.quantity) for arm in few), None)
