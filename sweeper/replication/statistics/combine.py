"""How a claim is made of tests: all of them, or any of them.

*All* is the intersection-union test: it is supported when each part is, its p-value is the largest of theirs, and
no correction is due (Berger 1982, Technometrics 24). It is contradicted when one part is, which takes Bonferroni's
correction for the number of parts. *Any* is the reverse: a union-intersection test for support, an
intersection-union test against. Both hold whatever the dependence of the parts, and may be nested.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from scipy.optimize import brentq

from sweeper.replication.statistics.base import Test


class Shown(NamedTuple):
    """The number that decides a claim, with its interval; NaN where there is none."""

    label: str
    quantity: str
    unit: str
    direction: int
    null: float
    estimate: float
    low: float
    high: float
    detectable: float  # distance from `null`; where there is a `centre`, the largest from it that is supportable
    method: str
    counts: Mapping[str, int]  # runs by arm
    centre: float = math.nan  # of two bounds that the number is claimed to lie between


class Leaf(NamedTuple):
    """A test within a claim, with the level and the power that it has to have for the claim to have its own."""

    test: Test
    alpha: float
    power: float


@dataclass(frozen=True, eq=False)
class Combined(ABC):
    """Several tests, or combinations of them."""

    parts: tuple[Evidence, ...]

    @property
    @abstractmethod
    def p_support(self) -> float:
        """Of the null hypothesis that the claim is not so."""

    @property
    @abstractmethod
    def p_contradict(self) -> float:
        """Of the null hypothesis that the claim is so."""

    @abstractmethod
    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound, by Bonferroni's inequality, of the probability of a p-value of at most `alpha`."""

    @cached_property
    def least_p(self) -> tuple[float, float]:
        """The smallest p of the parts, corrected for their number: for support, and against."""
        k = len(self.parts)
        return (
            min(1.0, k * min(part.p_support for part in self.parts)),
            min(1.0, k * min(part.p_contradict for part in self.parts)),
        )

    @cached_property
    def largest_p(self) -> tuple[float, float]:
        """The largest p of the parts: for support, and against."""
        return max(part.p_support for part in self.parts), max(part.p_contradict for part in self.parts)

    def _each(self, n: int, alpha: float, *, support: bool) -> float:
        """That all parts are found at `alpha`, at least."""
        return max(0.0, 1 - sum(1 - part.power(n, alpha, support=support) for part in self.parts))

    def _one(self, n: int, alpha: float, *, support: bool) -> float:
        """That some part is found at `alpha` over their number, at least."""
        return max(part.power(n, alpha / len(self.parts), support=support) for part in self.parts)


@dataclass(frozen=True, eq=False)
class All(Combined):
    """Each of the parts.

    `gate` can withhold support, never give it; `tells` is what else is told.
    """

    gate: Callable[[], bool] = lambda: True
    tells: Callable[[], dict[str, float]] = dict

    @cached_property
    def p_support(self) -> float:
        """The largest of the parts'."""
        p = self.largest_p[0]
        return p if p > 0.025 or self.gate() else 1.0

    @property
    def p_contradict(self) -> float:
        """The smallest of the parts', times their number."""
        return self.least_p[1]

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """As of the base."""
        return (self._each if support else self._one)(n, alpha, support=support)


@dataclass(frozen=True, eq=False)
class Given(All):
    """Each of the parts, under a premise: while `gate` is closed there is neither support nor contradiction."""

    @property
    def p_contradict(self) -> float:
        """As of all parts, or 1."""
        p = self.least_p[1]
        return p if p > 0.025 or self.gate() else 1.0

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """As of all parts; none while the gate is closed, which more seeds close the tighter, were the truth as now."""
        return super().power(n, alpha, support=support) if self.gate() else 0.0


@dataclass(frozen=True, eq=False)
class Between(All):
    """One number between two bounds, by two one-sided tests (Schuirmann 1987): above the first, below the second."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper."""
        low, high = (part.null for part in self.parts if isinstance(part, Test))
        return low, high

    def supportable(self, alpha: float, power: float) -> float:
        """How far from the middle of the bounds the number may lie, to be found between them with `power`.

        The two tests together miss it, by Bonferroni's inequality, with at most 1 - `power`: of all ways to divide
        that between them, the one whose two distances add up to that of the bounds. NaN where even the middle is
        found too seldom.
        """
        low, high = self.bounds
        above, below = (part for part in self.parts if isinstance(part, Test))
        misses = 1 - power

        def distances(miss: float) -> tuple[float, float]:
            """From the far bound, that is missed with `miss`, and from the near one, that is missed with the rest."""
            return above.detectable(alpha, 1 - miss), below.detectable(alpha, power + miss)

        def beyond(miss: float) -> float:
            return sum(distances(miss)) - (high - low)

        if not beyond(misses / 2) <= 0:  # also where it cannot be had
            return math.nan
        least = misses / 1e4
        miss = brentq(beyond, least, misses / 2) if beyond(least) > 0 else least
        return (high - low) / 2 - distances(float(miss))[1]


@dataclass(frozen=True, eq=False)
class AnyOf(Combined):
    """One of the parts, whichever."""

    @property
    def p_support(self) -> float:
        """The smallest of the parts', times their number."""
        return self.least_p[0]

    @property
    def p_contradict(self) -> float:
        """The largest of the parts'."""
        return self.largest_p[1]

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """As of the base."""
        return (self._one if support else self._each)(n, alpha, support=support)


Evidence: TypeAlias = "Test | Combined"


def leaves(evidence: Evidence, alpha: float, power: float) -> Iterator[Leaf]:
    """The tests within `evidence`.

    A conjunction of k is found with `power` if each part is with 1 - (1 - power)/k; a disjunction of k at level
    `alpha` if one part is at alpha/k.
    """
    if not isinstance(evidence, Combined):
        yield Leaf(evidence, alpha, power)
        return
    k = len(evidence.parts)
    levels = (alpha, 1 - (1 - power) / k) if isinstance(evidence, All) else (alpha / k, power)
    for part in evidence.parts:
        yield from leaves(part, *levels)


def facts(evidence: Evidence) -> dict[str, float]:
    """What else is told of a claim, by name."""
    if not isinstance(evidence, Combined):
        return evidence.facts()
    told = evidence.tells() if isinstance(evidence, All) else {}
    return {name: value for part in evidence.parts for name, value in facts(part).items()} | told


def shown(evidence: Evidence, alpha: float, power: float) -> Shown:
    """The number to show, with an interval each side of which misses with probability at most `alpha`.

    Parts with one quantity, direction and bound are shown as their least favourable (All) or most favourable (AnyOf)
    value: "above the better of two" is the smaller of two differences. The interval of the smallest of k values
    reaches from the smallest of their lower ends, at `alpha`, to the smallest of their upper ends, at alpha/k.
    Of other parts the one is shown that decides: it has the largest p among All, the smallest among AnyOf, and the
    reverse where the evidence is against the claim.
    """
    if not isinstance(evidence, Combined):
        low, high = evidence.interval(alpha)
        return Shown(evidence.label, evidence.quantity, evidence.unit, evidence.direction, evidence.null,
                     evidence.estimate, low, high, evidence.detectable(alpha, power),
                     evidence.method, evidence.counts)  # fmt: skip
    k, is_all = len(evidence.parts), isinstance(evidence, All)
    inner = 1 - (1 - power) / k if is_all else power
    wide = [shown(part, alpha / k, inner) for part in evidence.parts]
    narrow = [shown(part, alpha, inner) for part in evidence.parts]
    same = len({(part.quantity, part.unit, part.direction, part.null) for part in wide}) == 1
    if same and all(part.low == part.low for part in wide):  # none is NaN
        return _extreme(narrow, wide, smallest=is_all == (wide[0].direction > 0))
    if isinstance(evidence, Between):
        centre = sum(evidence.bounds) / 2
        found = evidence.supportable(alpha, power)
        narrow = [
            part._replace(centre=centre, detectable=found, method=f"two one-sided tests, {part.method}")
            for part in narrow
        ]
    against = evidence.p_contradict < evidence.p_support
    p = [part.p_contradict if against else part.p_support for part in evidence.parts]
    decides = max if is_all != against else min
    index = decides(range(k), key=p.__getitem__)
    return (narrow if is_all else wide)[index]


def _extreme(narrow: list[Shown], wide: list[Shown], *, smallest: bool) -> Shown:
    """The smallest, or largest, of several values, with its interval."""
    pick = min if smallest else max
    found = pick(narrow, key=lambda part: part.estimate)
    lows, highs = (narrow, wide) if smallest else (wide, narrow)
    label = f"{found.label} (the {'smallest' if smallest else 'largest'} of {len(narrow)})"
    return found._replace(label=label, low=pick(part.low for part in lows), high=pick(part.high for part in highs))
