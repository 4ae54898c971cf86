"""Tests of spread: the ratio of two variances, and the share of variance that a factor explains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special, stats
from statsmodels.stats.oneway import anova_oneway

from sweeper.replication.statistics.base import UNKNOWN, Array, Interval, Sample, Test
from sweeper.replication.statistics.means import Contrast


@dataclass(frozen=True, eq=False)
class VarianceRatio(Test):
    """The ratio of two variances, by the F distribution, which assumes normal values."""

    method = "F of two variances"
    first: Sample
    second: Sample

    @property
    def estimate(self) -> float:
        """s1^2 / s2^2; NaN where a sample does not vary."""
        if not self._varies:
            return math.nan
        return self.first.variance / self.second.variance

    @property
    def tails(self) -> tuple[float, float]:
        """By F."""
        if not self._varies:
            return 1.0, 1.0
        ratio = self.estimate / self.null
        return float(special.fdtrc(*self._dfs, ratio)), float(special.fdtr(*self._dfs, ratio))

    def interval(self, alpha: float) -> Interval:
        """By F."""
        if not self._varies:
            return UNKNOWN
        d1, d2 = self._dfs
        return self.estimate / float(stats.f.isf(alpha, d1, d2)), self.estimate * float(stats.f.isf(alpha, d2, d1))

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """P(F > critical value / ratio), if the true ratio of variances is that of the samples."""
        if not self._varies or self.excess(support=support) <= 0:
            return 0.0
        ratio = self.estimate / self.null
        ratio = ratio if ratio > 1 else 1 / ratio
        return float(special.fdtrc(n - 1, n - 1, stats.f.isf(alpha, n - 1, n - 1) / ratio))

    @property
    def _dfs(self) -> tuple[int, int]:
        return len(self.first) - 1, len(self.second) - 1

    @cached_property
    def _varies(self) -> bool:
        return min(self._dfs) >= 1 and self.first.variance > 0 and self.second.variance > 0


@dataclass(frozen=True, eq=False)
class Importance(Test):
    """The share of variance that the levels of a factor explain: omega squared, 0 if they do not differ.

    omega^2 = (SS_between - (k-1) MS_within) / (SS_total + MS_within) (Hays 1963), cut off at 0. Support is by
    Welch's analysis of variance (Welch 1951, Biometrika 38), which lets the levels differ in spread. It cannot show
    that levels do not matter. The test against is that every pair of levels lies within `margin`, by two one-sided
    tests each (Schuirmann 1987; Berger 1982, Technometrics 24).
    """

    method = "Welch's analysis of variance"
    levels: tuple[Sample, ...]
    margin: float

    @cached_property
    def estimate(self) -> float:
        """Omega squared."""
        return float(_omega_squared([x.values[None] for x in self.levels])[0]) if self._varies else math.nan

    @cached_property
    def tails(self) -> tuple[float, float]:
        """For no difference between the levels, and for a pair that differs by `margin` or more."""
        if not self._varies:
            return 1.0, 1.0
        found = anova_oneway([x.values for x in self.levels], use_var="unequal", welch_correction=True)
        return float(found.pvalue), max(pair.tails[0] for pair in self._pairs)

    def interval(self, alpha: float) -> Interval:
        """Percentiles of 2,000 seeded bootstrap samples, seeds drawn anew within each level; narrow with few seeds."""
        if not self._varies:
            return UNKNOWN
        random = np.random.default_rng(0)
        drawn = [x.values[random.integers(0, len(x), (2_000, len(x)))] for x in self.levels]
        low, high = np.quantile(_omega_squared(drawn), (alpha, 1 - alpha))
        return float(low), float(high)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """By the noncentral F of ordinary analysis of variance; against, a lower bound over the pairs."""
        if not self._varies:
            return 0.0
        if not support:
            return max(0.0, 1 - sum(1 - pair.power(n, alpha, support=True) for pair in self._pairs))
        k, within = len(self.levels), float(np.mean([x.variance for x in self.levels]))
        effect = n * float(np.var([x.mean for x in self.levels]) * k) / within
        d1, d2 = k - 1, k * (n - 1)
        found = float(1 - special.ncfdtr(d1, d2, effect, stats.f.isf(alpha, d1, d2)))
        return 1.0 if math.isnan(found) else found  # NaN where the series has no digits left: far beyond

    @cached_property
    def _varies(self) -> bool:
        return all(x.variance > 0 for x in self.levels)

    @cached_property
    def _pairs(self) -> list[Contrast]:
        """For each ordered pair: the difference lies above -margin."""
        return [
            Contrast(self.label, self.unit, 1, -self.margin, self.counts, (1.0, -1.0), (a, b))
            for a in self.levels
            for b in self.levels
            if a is not b
        ]


def _omega_squared(levels: list[Array]) -> Array:
    """`levels` are `(B, n_i)`; the result is `(B,)`."""
    pooled = np.concatenate(levels, axis=1)
    mean = pooled.mean(1, keepdims=True)
    between = sum(x.shape[1] * (x.mean(1, keepdims=True) - mean) ** 2 for x in levels)[:, 0]
    within = sum(((x - x.mean(1, keepdims=True)) ** 2).sum(1) for x in levels)
    mean_square = within / (pooled.shape[1] - len(levels))
    share = (between - (len(levels) - 1) * mean_square) / (between + within + mean_square)
    return np.asarray(np.clip(share, 0, None), dtype=np.float64)
