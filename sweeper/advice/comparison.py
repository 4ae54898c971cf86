"""The comparison: simultaneous intervals of all differences between placements, however often one looks.

Each placement, with the rates and the learning rate that the screening chose for it, is trained with seeds that the
screening did not use, so that the screening's luck does not bias the estimates. Placements are compared at 3, 5, 10,
20 and 40 seeds each, always the first ones. The look at n seeds spends the share w(n) of the error rate (`spent` of the
article's ledger), so that by Bonferroni's inequality all intervals of all looks together contain the true differences
with a probability of 95 %, as far as each look keeps to its share, and then every sentence based on them is true.

Within a look the intervals are those of Games and Howell (1976, Journal of Educational Statistics 1): the difference
± q √(s²/n), with the mean variance s² of its own two placements and the quantile q of the studentized range of all
placements. So one placement that varies much widens no interval but its own. With Welch's degrees of freedom three
seeds would tell nothing, so there are one and a half times as many; in return, an interval is at least as wide as with
the median variance of all placements and half the degrees of freedom of their pool. benchmarks/advise_intervals.py
measures how often that is false, and benchmarks/advise_quality.py how often an advice is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, median, stdev, variance
from typing import Final, NamedTuple

from scipy import stats
from statsmodels.stats.libqsturng import qsturng

from sweeper.replication.claims.ledger import ALPHA, look_times, spent

SMALL: Final = 0.003  # of accuracy: smaller differences do not matter
MOST_SEEDS: Final = 40  # of a placement
Arm = str


class Difference(NamedTuple):
    """A difference of means, with its interval from the look at `seeds` seeds per placement."""

    seeds: int
    estimate: float
    low: float
    high: float

    @property
    def told(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def small(self) -> bool:
        """True if the interval contains only small differences."""
        return self.low > -SMALL and self.high < SMALL

    @property
    def settled(self) -> bool:
        """True once the interval excludes 0 or contains only small differences."""
        return self.told or self.small

    def turned(self) -> Difference:
        """Return the opposite difference."""
        return Difference(self.seeds, -self.estimate, -self.high, -self.low)


@dataclass(frozen=True)
class Look:
    """Some placements at one number of seeds.

    Attributes:
        values: of each placement, its first `seeds` accuracies.
        seeds: of each placement.
        family: the number of placements that are compared, including those that left the comparison.
    """

    values: Mapping[Arm, Sequence[float]]
    seeds: int
    family: int

    @cached_property
    def means(self) -> dict[Arm, float]:
        """The mean of each placement."""
        return {arm: fmean(each) for arm, each in self.values.items()}

    @cached_property
    def variances(self) -> dict[Arm, float]:
        """The variance of each placement over its seeds."""
        return {arm: variance(each) for arm, each in self.values.items()}

    def contrast(self, weights: Mapping[Arm, float]) -> Difference:
        """Return a weighted sum of means, with weights that sum to 0, and its interval.

        It is as wide as that of a difference, times half the sum of the weights' sizes (Scheffé 1959, The Analysis of
        Variance, section 3.6).
        """
        estimate = math.fsum(weight * self.means[arm] for arm, weight in weights.items())
        half = self.half_width(tuple(weights), self.seeds) * math.fsum(map(abs, weights.values())) / 2
        return Difference(self.seeds, estimate, estimate - half, estimate + half)

    def difference(self, one: Arm, other: Arm) -> Difference:
        """Return the mean of one placement less that of the other."""
        return self.contrast({one: 1.0, other: -1.0})

    def half_width(self, arms: Sequence[Arm], seeds: int) -> float:
        """Return half the width of the interval of a difference between these arms at `seeds` seeds each.

        For numbers of seeds other than this look's, it is the expected one, assuming these variances.
        """
        own = fmean(self.variances[arm] for arm in arms)
        squares = math.fsum(self.variances[arm] ** 2 for arm in arms)
        welch = (len(arms) * own) ** 2 / squares * (seeds - 1) if squares else 1
        pool = len(self.values) * (seeds - 1)
        widths = ((own, min(1.5 * welch, pool)), (median(self.variances.values()), pool / 2))
        level = ALPHA * spent(seeds)
        return max(quantile(level, self.family, df) * math.sqrt(value / seeds) for value, df in widths)

    def seeds_to_tell(self, one: Arm, other: Arm) -> int | None:
        """Return the look that would find a difference between two placements, assuming these means and variances."""
        distance = abs(self.means[one] - self.means[other])
        later = (seeds for seeds in look_times(MOST_SEEDS) if seeds > self.seeds)
        return next((seeds for seeds in later if self.half_width((one, other), seeds) < distance), None)


def quantile(level: float, family: int, freedom: float) -> float:
    """Return the quantile of the studentized range of `family` means, exceeded with the probability `level`.

    By Gleason's approximation (1998, Computational Statistics & Data Analysis 28), which is right to four digits.
    """
    return float(qsturng(1 - level, max(family, 2), max(freedom, 2)))


@dataclass
class Comparison:
    """The looks so far, and their conclusions."""

    family: int
    looks: list[Look] = field(default_factory=list)
    found: dict[tuple[Arm, Arm], Difference] = field(default_factory=dict)  # by two arms, in the order of their names

    def look(self, values: Mapping[Arm, Sequence[float]], seeds: int) -> None:
        """Compare these arms. Differences that an earlier look found stay as they were."""
        look = Look(values, seeds, self.family)
        self.looks.append(look)
        for one, other in itertools.combinations(sorted(values), 2):
            if not ((known := self.found.get((one, other))) and known.told):
                self.found[one, other] = look.difference(one, other)

    def between(self, one: Arm, other: Arm) -> Difference | None:
        """Return the difference of two arms: from the look that found one, else from their last common one."""
        if one < other:
            return self.found.get((one, other))
        known = self.found.get((other, one))
        return known and known.turned()

    def contrast(self, weights: Mapping[Arm, float]) -> Difference | None:
        """Return a weighted sum of means: from the first look that finds it not to be 0, else the last one."""
        looks = [look for look in self.looks if look.values.keys() >= weights.keys()]
        found = [look.contrast(weights) for look in looks]
        return next((each for each in found if each.told), found[-1] if found else None)

    @property
    def best(self) -> Arm:
        """The arm with the highest mean in the last look."""
        means = self.looks[-1].means
        return max(means, key=means.__getitem__)

    def more_seeds(self, one: Arm, other: Arm) -> int | None:
        """Return how many more seeds each would find a difference between two arms, assuming these estimates.

        None if one was found already, or if 40 seeds each would not be enough.
        """
        known = self.between(one, other)
        look = next((look for look in reversed(self.looks) if look.values.keys() >= {one, other}), None)
        if known is None or look is None or known.told:
            return None
        seeds = look.seeds_to_tell(one, other)
        return None if seeds is None else seeds - look.seeds


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of some accuracies, by Student's t; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.isf(0.025, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return max(0.0, fmean(values) - half), min(1.0, fmean(values) + half)
