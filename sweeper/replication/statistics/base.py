"""Elementary tests of one number against one bound: p-values for both directions, intervals, power.

A test has a bound and a direction: what is claimed is that the number lies above it (+1) or below it (-1).
`p_support` is the p-value of the null hypothesis that it does not, `p_contradict` that of the null hypothesis
that it does. Both are one-sided and valid at the bound itself, so that for at most one of the two directions
a rejection is no error. An alpha is one-sided throughout; the interval with alpha 0.025 is the usual one of 95 %.

Where a value cannot be had, because there are fewer than two runs or they do not vary, the p-values are 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

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
        """NaN of no values."""
        return float(self.values.mean()) if len(self.values) else math.nan

    @cached_property
    def variance(self) -> float:
        """s^2, with n - 1; NaN of fewer than two values."""
        return float(self.values.var(ddof=1)) if len(self.values) > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Test(ABC):
    """One number against one bound."""

    __test__ = False  # for pytest: no test of this project

    label: str
    unit: str
    direction: int  # +1: the claim is that the number lies above `null`; -1: below
    null: float
    counts: Mapping[str, int]  # runs by arm

    @property
    def quantity(self) -> str:
        """What is measured, without of which arms."""
        return self.label.split(",")[0]

    @property
    def method(self) -> str:
        """What the test is called."""
        return type(self).__name__

    @property
    @abstractmethod
    def estimate(self) -> float:
        """The number."""

    @property
    @abstractmethod
    def p_above(self) -> float:
        """Of the null hypothesis that the number is at most `null`."""

    @property
    @abstractmethod
    def p_below(self) -> float:
        """Of the null hypothesis that the number is at least `null`."""

    @abstractmethod
    def interval(self, alpha: float) -> Interval:
        """Two-sided, each side missing with probability at most `alpha`; NaN where there is none."""

    @abstractmethod
    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """The probability of a p-value of at most `alpha` with `n` seeds, were the truth what is estimated now."""

    @abstractmethod
    def detectable(self, alpha: float, power: float) -> float:
        """The distance from `null`, as many seeds as there are, that gives a p-value of at most `alpha` with `power`.

        In the unit of the estimate; NaN where it cannot be had.
        """

    @property
    def p_support(self) -> float:
        """Of the null hypothesis that what is claimed is not so."""
        return self.p_above if self.direction > 0 else self.p_below

    @property
    def p_contradict(self) -> float:
        """Of the null hypothesis that what is claimed is so."""
        return self.p_below if self.direction > 0 else self.p_above

    def facts(self) -> dict[str, float]:
        """What else is told of it, by name."""
        return {}

    def excess(self, *, support: bool) -> float:
        """How far the estimate lies beyond `null`, on the side that supports or contradicts."""
        return (1 if support else -1) * self.direction * (self.estimate - self.null)
