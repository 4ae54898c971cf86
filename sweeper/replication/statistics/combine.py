"""Claims made of several tests: all of them, or any of them.

*All* is the intersection-union test: it is supported when each part is, its p-value is the largest of theirs, and
it needs no correction (Berger 1982, Technometrics 24). One contradicted part contradicts it, with Bonferroni's
correction for the number of parts. *Any* is the reverse: a union-intersection test for support, an
intersection-union test against. Both hold whatever the dependence of the parts, and may be nested.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeper.replication.statistics.base import Evidence, Lacking, Shown, Test


@dataclass(frozen=True, eq=False)
class Combined(Evidence):
    """Several tests, or combinations of them."""

    parts: tuple[Evidence, ...]

    def shown(self, alpha: float) -> Shown:
        """The extreme of comparable parts, else the part that decides.

        Parts with one quantity, direction and bound are comparable: "above the better of two" is the smaller of two
        differences. The interval of the smallest of k values reaches from the smallest of their lower ends, at
        `alpha`, to the smallest of their upper ends, at alpha/k.
        """
        narrow = [part.shown(alpha) for part in self.parts]
        wide = [part.shown(alpha / len(self.parts)) for part in self.parts]
        if _comparable(wide):
            return self._extreme(narrow, wide)
        return self._deciding(narrow, wide)

    def tests(self) -> Iterator[Test]:
        """Those of the parts."""
        for part in self.parts:
            yield from part.tests()

    def facts(self) -> dict[str, float]:
        """Those of the parts."""
        return {name: value for part in self.parts for name, value in part.facts().items()}

    def lacking(self, least: int) -> Lacking | None:
        """What the first part lacks that cannot be computed."""
        return next((found for part in self.parts if (found := part.lacking(least))), None)

    @abstractmethod
    def _extreme(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        """The least or most favourable of comparable parts, with intervals at `alpha` and at alpha/k."""

    @abstractmethod
    def _deciding(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        """The part that the p-value comes from."""

    @cached_property
    def _least_p(self) -> tuple[float, float]:
        """The smallest p of the parts, corrected for their number: for support, and against."""
        k = len(self.parts)
        return (
            min(1.0, k * min(part.p_support for part in self.parts)),
            min(1.0, k * min(part.p_contradict for part in self.parts)),
        )

    @cached_property
    def _largest_p(self) -> tuple[float, float]:
        """The largest p of the parts: for support, and against."""
        return max(part.p_support for part in self.parts), max(part.p_contradict for part in self.parts)

    def _relevant_p(self) -> list[float]:
        """The p of each part on the side that the evidence favours."""
        if self.p_contradict < self.p_support:
            return [part.p_contradict for part in self.parts]
        return [part.p_support for part in self.parts]

    def _each(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound, by Bonferroni's inequality, of the probability that all parts are found at `alpha`."""
        return max(0.0, 1 - sum(1 - part.power(n, alpha, support=support) for part in self.parts))

    def _one(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound of the probability that some part is found at `alpha` over their number."""
        return max(part.power(n, alpha / len(self.parts), support=support) for part in self.parts)


@dataclass(frozen=True, eq=False)
class All(Combined):
    """Each of the parts.

    `gate` can withhold support, never give it; `tells` gives further facts.
    """

    gate: Callable[[], bool] = lambda: True
    tells: Callable[[], dict[str, float]] = dict

    @cached_property
    def p_support(self) -> float:
        """The largest of the parts'; 1 while the gate is closed."""
        p = self._largest_p[0]
        return p if p > 0.025 or self.gate() else 1.0

    @property
    def p_contradict(self) -> float:
        """The smallest of the parts', times their number."""
        return self._least_p[1]

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound by Bonferroni's inequality."""
        return (self._each if support else self._one)(n, alpha, support=support)

    def facts(self) -> dict[str, float]:
        """Those of the parts, and those that it tells."""
        return super().facts() | self.tells()

    def _extreme(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        return _smallest(narrow, wide) if wide[0].direction > 0 else _largest(narrow, wide)

    def _deciding(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        """The part with the largest p, or the smallest where the evidence is against the claim."""
        p = self._relevant_p()
        decides = min(p) if self.p_contradict < self.p_support else max(p)
        return narrow[p.index(decides)]


@dataclass(frozen=True, eq=False)
class Given(All):
    """Each of the parts, under a premise: while `gate` is closed there is neither support nor contradiction."""

    @property
    def p_contradict(self) -> float:
        """As for all parts; 1 while the gate is closed."""
        p = self._least_p[1]
        return p if p > 0.025 or self.gate() else 1.0

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """As for all parts; 0 while the gate is closed, since more seeds would keep it closed."""
        return super().power(n, alpha, support=support) if self.gate() else 0.0

    def premise_holds(self) -> bool:
        """Whether the gate is open."""
        return self.gate()


@dataclass(frozen=True, eq=False)
class Between(All):
    """One number between two bounds, by two one-sided tests (Schuirmann 1987): above the first, below the second."""

    def _deciding(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        found = super()._deciding(narrow, wide)
        return found._replace(method=f"two one-sided tests, {found.method}")


@dataclass(frozen=True, eq=False)
class AnyOf(Combined):
    """At least one of the parts."""

    @property
    def p_support(self) -> float:
        """The smallest of the parts', times their number."""
        return self._least_p[0]

    @property
    def p_contradict(self) -> float:
        """The largest of the parts'."""
        return self._largest_p[1]

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound by Bonferroni's inequality."""
        return (self._one if support else self._each)(n, alpha, support=support)

    def lacking(self, least: int) -> Lacking | None:
        """None if one part can be computed."""
        found = [part.lacking(least) for part in self.parts]
        return None if None in found else found[0]

    def _extreme(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        return _largest(narrow, wide) if wide[0].direction > 0 else _smallest(narrow, wide)

    def _deciding(self, narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
        """The part with the smallest p, or the largest where the evidence is against the claim."""
        p = self._relevant_p()
        decides = max(p) if self.p_contradict < self.p_support else min(p)
        return wide[p.index(decides)]


def _comparable(shown: Sequence[Shown]) -> bool:
    """Whether all parts show one quantity against one bound, and have an interval."""
    kinds = {(part.quantity, part.unit, part.direction, part.null) for part in shown}
    return len(kinds) == 1 and all(part.low == part.low for part in shown)  # NaN is unequal to itself


def _smallest(narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
    """The smallest of several values, with its interval."""
    found = min(narrow, key=lambda part: part.estimate)
    label = f"{found.label} (the smallest of {len(narrow)})"
    return found._replace(label=label, low=min(part.low for part in narrow), high=min(part.high for part in wide))


def _largest(narrow: Sequence[Shown], wide: Sequence[Shown]) -> Shown:
    """The largest of several values, with its interval."""
    found = max(narrow, key=lambda part: part.estimate)
    label = f"{found.label} (the largest of {len(narrow)})"
    return found._replace(label=label, low=max(part.low for part in wide), high=max(part.high for part in narrow))
