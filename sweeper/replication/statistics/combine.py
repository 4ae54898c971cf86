"""Claims made of several tests: all of them, or any of them.

*All* is the intersection-union test: it is supported when each part is, its p-value is the largest of theirs, and
it needs no correction (Berger 1982, Technometrics 24). One contradicted part contradicts it, with Bonferroni's
correction for the number of parts. *Any* is the reverse: a union-intersection test for support, an
intersection-union test against. Both hold whatever the dependence of the parts, and may be nested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from sweeper.replication.statistics.base import Evidence, Lacking, PValues, Shown, Test

LEVEL: Final = 0.025  # one-sided; at this level a premise is shown to fail


@dataclass(frozen=True, eq=False)
class Combined(Evidence):
    """Several tests, or combinations of them.

    `chances` are further probabilities; support is withheld if one of them is below `least`. If the premise is shown
    to fail, there is neither support nor contradiction.
    """

    parts: tuple[Evidence, ...]
    every: bool  # True: all of the parts have to hold; False: one of them
    method: str = ""  # put before the name of the test that decides
    premise: Evidence | None = None
    least: float = 0.0
    chances: Callable[[], Mapping[str, float]] = dict

    @cached_property
    def p(self) -> PValues:
        """The largest p-value of the parts, or the smallest times their number."""
        supports, contradicts = zip(*(part.p for part in self.parts), strict=True)
        k = len(self.parts)
        if not self.every:
            return PValues(min(1.0, k * min(supports)), max(contradicts))
        support, contradict = max(supports), min(1.0, k * min(contradicts))
        if support <= LEVEL and min(self.chances().values(), default=1.0) < self.least:
            support = 1.0
        return PValues(*(1.0 if p <= LEVEL and not self.premise_holds() else p for p in (support, contradict)))

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        """A lower bound by Bonferroni's inequality; 0 where the premise fails, since more seeds would not help."""
        if not self.premise_holds():
            return 0.0
        if support == self.every:  # each part has to be found
            return max(0.0, 1 - sum(1 - part.power(n, alpha, support=support) for part in self.parts))
        return max(part.power(n, alpha / len(self.parts), support=support) for part in self.parts)

    def shown(self, alpha: float) -> Shown:
        """The extreme of comparable parts, else the part that decides.

        Parts with one quantity, direction and bound are comparable: "above the better of two" is the smaller of two
        differences. The interval of the smallest of k values reaches from the smallest of their lower ends, at
        `alpha`, to the smallest of their upper ends, at alpha/k.
        """
        narrow = [part.shown(alpha) for part in self.parts]
        wide = [part.shown(alpha / len(self.parts)) for part in self.parts]
        if _comparable(wide):
            return _extreme(narrow, wide, smallest=self.every == (wide[0].direction > 0))
        against = self.p.contradict < self.p.support
        p = [part.p[against] for part in self.parts]
        decides = p.index(min(p) if against == self.every else max(p))
        found = (narrow if self.every else wide)[decides]
        return found._replace(method=self.method + found.method)

    def tests(self) -> Iterator[Test]:
        """Those of the parts."""
        for part in self.parts:
            yield from part.tests()

    def facts(self) -> dict[str, float]:
        """Those of the parts, and the chances."""
        return {name: value for part in self.parts for name, value in part.facts().items()} | dict(self.chances())

    def lacking(self, least: int) -> Lacking | None:
        """The first part that cannot be computed; if one part is enough, None unless all cannot."""
        found = [part.lacking(least) for part in self.parts]
        if not self.every and None in found:
            return None
        return next((lacking for lacking in found if lacking), None)

    def premise_holds(self) -> bool:
        """Return False if the premise is shown to fail."""
        return self.premise is None or self.premise.p.contradict > LEVEL


def _comparable(shown: Sequence[Shown]) -> bool:
    """Return True if several parts show one quantity against one bound, and have an interval."""
    kinds = {(part.quantity, part.unit, part.direction, part.null) for part in shown}
    return len(shown) > 1 and len(kinds) == 1 and not any(math.isnan(part.low) for part in shown)


def _extreme(narrow: Sequence[Shown], wide: Sequence[Shown], *, smallest: bool) -> Shown:
    """The smallest or the largest of several values, with its interval."""
    pick, lows, highs = (min, narrow, wide) if smallest else (max, wide, narrow)
    found = pick(narrow, key=lambda part: part.estimate)
    label = f"{found.label} (the {'smallest' if smallest else 'largest'} of {len(narrow)})"
    return found._replace(label=label, low=pick(part.low for part in lows), high=pick(part.high for part in highs))
