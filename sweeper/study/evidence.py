"""How good a configuration is, judged by all its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """A configuration by the accuracies of its seeds."""

    key: str
    n: int
    mean: float
    shrunken: float
    low: float
    high: float


def standings(values: Mapping[str, Sequence[float]]) -> list[Standing]:
    """Return the configurations, the best first."""
    found = []
    for key, seeds in values.items():
        mean = sum(seeds) / len(seeds)
        found.append(Standing(key, len(seeds), mean, mean, mean, mean))
    return sorted(found, key=lambda s: -s.shrunken)
