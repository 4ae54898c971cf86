"""Exact tests, which assume no distribution: of a share, and of whole numbers."""

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

    successes: int
    n: int

    @property
    def method(self) -> str:
        """The name of the test."""
        return "exact binomial"

    @property
    def estimate(self) -> float:
        """The share in the sample."""
        return self.successes / self.n if self.n else math.nan

    @property
    def p_above(self) -> float:
        """P(as many or more | null)."""
        return float(stats.binom.sf(self.successes - 1, self.n, self.null)) if self.n else 1.0

    @property
    def p_below(self) -> float:
        """P(as many or fewer | null)."""
        return float(special.bdtr(self.successes, self.n, self.null)) if self.n else 1.0

    def interval(self, alpha: float) -> Interval:
        """Exact: the shares that neither tail of level `alpha` rejects."""
        if not self.n:
            return UNKNOWN
        limits = stats.binomtest(self.successes, self.n).proportion_ci(1 - 2 * alpha, method="exact")
        return float(limits.low), float(limits.high)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """Exact, if the true share is that of the sample."""
        return self._power(n, alpha, self.estimate, self.direction if support else -self.direction) if self.n else 0.0

    def _power(self, n: int, alpha: float, share: float, direction: int) -> float:
        """P(p-value <= alpha | share)."""
        outcomes = np.arange(n + 1)
        tail = stats.binom.sf(outcomes - 1, n, self.null) if direction > 0 else stats.binom.cdf(outcomes, n, self.null)
        return float(stats.binom.pmf(outcomes[tail <= alpha], n, share).sum())


@dataclass(frozen=True, eq=False)
class Ranks(Test):
    """The difference of two means of whole numbers, by its exact permutation distribution.

    All ways to deal the pooled values to the two samples are equally likely if both have one distribution.
    They are counted by the shift algorithm (Streitberg and Roehmel 1986, Statistical Software Newsletter 12). For
    values such as grid steps or counts: no t distribution describes them, and in a sample they may not vary at all.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]

    @property
    def method(self) -> str:
        """The name of the test."""
        return "exact permutation"

    @cached_property
    def _welch(self) -> Contrast:
        samples = Sample(self.first.astype(np.float64)), Sample(self.second.astype(np.float64))
        return Contrast(self.label, self.unit, self.direction, self.null, self.counts, (1.0, -1.0), samples)

    @property
    def estimate(self) -> float:
        """The difference of means."""
        return self._welch.estimate

    @cached_property
    def _tails(self) -> tuple[float, float]:
        """P(sum of the first as large or larger), P(as small or smaller)."""
        if min(len(self.first), len(self.second)) < 1:
            return 1.0, 1.0
        pooled = np.concatenate([self.first, self.second])
        pooled = pooled - pooled.min()
        ways = np.zeros((len(self.first) + 1, int(pooled.sum()) + 1))  # by number of values taken, and their sum
        ways[0, 0] = 1
        for value in pooled.tolist():
            shifted = np.zeros_like(ways[:-1])
            shifted[:, value:] = ways[:-1, : ways.shape[1] - value]
            ways[1:] += shifted
        chances = ways[-1] / ways[-1].sum()
        seen = int(self.first.sum() - len(self.first) * np.concatenate([self.first, self.second]).min())
        return min(1.0, float(chances[seen:].sum())), min(1.0, float(chances[: seen + 1].sum()))

    @property
    def p_above(self) -> float:
        """Exact."""
        return self._tails[0]

    @property
    def p_below(self) -> float:
        """Exact."""
        return self._tails[1]

    def interval(self, alpha: float) -> Interval:
        """Welch's, an approximation for such values; NaN where they do not vary."""
        return self._welch.interval(alpha)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """That of Welch's test, but 0 while even completely separated samples would give a larger p."""
        if self.excess(support=support) <= 0 or 1 / special.binom(2 * n, n) > alpha:
            return 0.0
        return 1.0 if self._welch.standard_error == 0 else self._welch.power(n, alpha, support=support)
