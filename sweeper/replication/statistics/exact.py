"""Exact tests of a share and of whole numbers, which assume no distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from sweeper.replication.statistics.base import UNKNOWN, Interval, Sample, Test
from sweeper.replication.statistics.means import Contrast


@dataclass(frozen=True, eq=False)
class Share(Test):
    """The share of runs that have a property, exact by the binomial distribution.

    The interval is that of Clopper and Pearson (1934, Biometrika 26).
    """

    method = "exact binomial"
    successes: int
    n: int

    @property
    def estimate(self) -> float:
        """The share in the sample."""
        return self.successes / self.n if self.n else math.nan

    @property
    def tails(self) -> tuple[float, float]:
        """P(as many or more | null), P(as many or fewer | null)."""
        if not self.n:
            return 1.0, 1.0
        more = stats.binom.sf(self.successes - 1, self.n, self.null)
        return float(more), float(special.bdtr(self.successes, self.n, self.null))

    def interval(self, alpha: float) -> Interval:
        """Exact: the shares that neither tail of level `alpha` rejects."""
        if not self.n:
            return UNKNOWN
        limits = stats.binomtest(self.successes, self.n).proportion_ci(1 - 2 * alpha, method="exact")
        return float(limits.low), float(limits.high)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """Exact, if the true share is that of the sample."""
        if not self.n:
            return 0.0
        outcomes = np.arange(n + 1)
        above = support == (self.direction > 0)
        tail = stats.binom.sf(outcomes - 1, n, self.null) if above else stats.binom.cdf(outcomes, n, self.null)
        return float(stats.binom.pmf(outcomes[tail <= alpha], n, self.estimate).sum())


@dataclass(frozen=True, eq=False)
class Ranks(Test):
    """The difference of two means of whole numbers, by its exact permutation distribution.

    All ways to deal the pooled values to the two samples are equally likely if both have one distribution.
    They are counted by the shift algorithm (Streitberg and Roehmel 1986, Statistical Software Newsletter 12). For
    values such as grid steps or counts: no t distribution describes them, and in a sample they may not vary at all.
    """

    method = "exact permutation"
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]

    @cached_property
    def _welch(self) -> Contrast:
        samples = Sample(self.first.astype(np.float64)), Sample(self.second.astype(np.float64))
        return Contrast(self.label, self.unit, self.direction, self.null, self.counts, (1.0, -1.0), samples)

    @property
    def estimate(self) -> float:
        """The difference of means."""
        return self._welch.estimate

    @cached_property
    def tails(self) -> tuple[float, float]:
        """P(sum of the first as large or larger), P(as small or smaller)."""
        if min(len(self.first), len(self.second)) < 1:
            return 1.0, 1.0
        pooled = np.concatenate([self.first, self.second])
        lowest = pooled.min()
        pooled = pooled - lowest
        ways = np.zeros((len(self.first) + 1, int(pooled.sum()) + 1))  # by number of values taken, and their sum
        ways[0, 0] = 1
        for value in pooled.tolist():
            shifted = np.zeros_like(ways[:-1])
            shifted[:, value:] = ways[:-1, : ways.shape[1] - value]
            ways[1:] += shifted
        chances = ways[-1] / ways[-1].sum()
        seen = int(self.first.sum() - len(self.first) * lowest)
        return min(1.0, float(chances[seen:].sum())), min(1.0, float(chances[: seen + 1].sum()))

    def interval(self, alpha: float) -> Interval:
        """Welch's, an approximation for such values; NaN where they do not vary."""
        return self._welch.interval(alpha)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """That of Welch's test, but 0 while even completely separated samples would give a larger p."""
        if self.excess(support=support) <= 0 or 1 / special.binom(2 * n, n) > alpha:
            return 0.0
        return 1.0 if self._welch.standard_error == 0 else self._welch.power(n, alpha, support=support)
