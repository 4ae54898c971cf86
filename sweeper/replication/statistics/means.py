"""Tests of means: Welch's, Student's, paired, any other weighted sum, and whether a value is reached."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from scipy import special

from sweeper.replication.statistics.base import UNKNOWN, Interval, PValues, Sample, Test


@dataclass(frozen=True, eq=False)
class Contrast(Test):
    """A weighted sum of the means of independent samples, by the t distribution of Welch and Satterthwaite.

    t = (sum w_i m_i - null) / sqrt(sum v_i), v_i = w_i^2 s_i^2 / n_i, with (sum v_i)^2 / sum(v_i^2 / (n_i - 1))
    degrees of freedom (Welch 1947, Biometrika 34; Satterthwaite 1946, Biometrics Bulletin 2). Two samples with
    weights 1 and -1 give Welch's test, one sample with weight 1 Student's, and differences within runs the paired one.
    """

    weights: tuple[float, ...]
    samples: tuple[Sample, ...]

    @property
    def method(self) -> str:
        """Named after the number of samples."""
        return "Welch's t" if len(self.samples) > 1 else "Student's t"

    @cached_property
    def estimate(self) -> float:
        """The weighted sum of means."""
        return sum(w * x.mean for w, x in zip(self.weights, self.samples, strict=True))

    @cached_property
    def variances(self) -> list[float]:
        """w_i^2 s_i^2, for one seed."""
        return [w * w * x.variance for w, x in zip(self.weights, self.samples, strict=True)]

    @cached_property
    def standard_error(self) -> float:
        """That of the estimate; 0 where nothing varies, NaN with fewer than two values in a sample."""
        return math.sqrt(sum(self._shares))

    @cached_property
    def df(self) -> float:
        """Degrees of freedom."""
        terms = (v * v / (len(x) - 1) for v, x in zip(self._shares, self.samples, strict=True))
        return sum(self._shares) ** 2 / sum(terms)

    @cached_property
    def tails(self) -> tuple[float, float]:
        """By Student's t."""
        if not self._varies:
            return 1.0, 1.0
        t = (self.estimate - self.null) / self.standard_error
        return float(special.stdtr(self.df, -t)), float(special.stdtr(self.df, t))

    def interval(self, alpha: float) -> Interval:
        """The estimate -+ t standard errors."""
        return self._around(alpha, self.standard_error)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """By the noncentral t distribution, with `n` values in each sample and the current variances."""
        distance = self.excess(support=support)
        if not self._varies or distance <= 0:
            return 0.0
        total = sum(self.variances)
        df = (n - 1) * total**2 / sum(v * v for v in self.variances)
        return _t_power(df, alpha, distance / math.sqrt(total / n))

    def _around(self, alpha: float, error: float) -> Interval:
        if not self._varies:
            return UNKNOWN
        half = -float(special.stdtrit(self.df, alpha)) * error
        return self.estimate - half, self.estimate + half

    @cached_property
    def _varies(self) -> bool:
        return self.standard_error > 0 and math.isfinite(self.standard_error)

    @cached_property
    def _shares(self) -> list[float]:
        """v_i."""
        return [v / max(len(x), 1) for v, x in zip(self.variances, self.samples, strict=True)]


def _t_power(df: float, alpha: float, noncentrality: float) -> float:
    """P(T > t_alpha) of the noncentral t, by the normal distribution where the series has no digits left."""
    critical = -float(special.stdtrit(df, alpha))
    if noncentrality > 30 or critical > 1e3:
        spread = math.sqrt(1 + critical**2 / (2 * df))
        return float(special.ndtr((noncentrality - critical) / spread))
    return float(1 - special.nctdtr(df, noncentrality, critical))


@dataclass(frozen=True, eq=False)
class Reached(Contrast):
    """Runs of one arm against the value of one other run: by their mean for support, by a prediction interval against.

    `value` is contradicted when it lies above the prediction interval mean + t s sqrt(1 + 1/n) of one further run
    (Hahn and Meeker 1991, Statistical Intervals, ch. 4). Until it no longer does, it is not supported, however close
    the mean.
    """

    value: float

    @property
    def method(self) -> str:
        """The tests of both directions."""
        return "Student's t, and prediction interval"

    def _error(self, n: int) -> float:
        """The standard error of one further run, after `n` of them: s sqrt(1 + 1/n)."""
        return math.sqrt(self.variances[0] * (1 + 1 / n))

    def facts(self) -> dict[str, float]:
        """The 95 % prediction interval."""
        if not self._varies:
            return {}
        low, high = self._around(0.025, self._error(len(self.samples[0])))
        return {"prediction interval, low": low, "prediction interval, high": high}

    @property
    def p(self) -> PValues:
        """For a mean of at most `null`, 1 while `value` is above the interval; against, `value` as one further run."""
        if not self._varies:
            return PValues(1.0, 1.0)
        away = (self.value - self.estimate) / self._error(len(self.samples[0]))
        further = float(special.stdtr(self.df, -away))
        return PValues(self.tails[0] if further > 0.025 else 1.0, further)

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """That of the mean, but 0 if `value` will lie above the interval; against, that of a further run."""
        if not self._varies:
            return 0.0
        away = (self.value - self.estimate) / self._error(n)
        if support:
            return super().power(n, alpha, support=True) if special.stdtr(n - 1, -away) > 0.025 else 0.0
        return _t_power(n - 1, alpha, away) if away > 0 else 0.0
