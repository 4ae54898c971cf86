"""The means of configurations that were trained again with seeds which the search did not choose them by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Fresh(NamedTuple):
    """The mean accuracy of a configuration over fresh seeds; NaN as limits where no seed was repeated."""

    key: str
    n: int
    mean: float
    low: float  # of the 95 % interval
    high: float


def fresh_means(values: Mapping[str, Sequence[float]]) -> list[Fresh]:
    """Return the means of the configurations, the highest first.

    The intervals are Student's, with one variance for all configurations: the pooled variance within them, whose
    degrees of freedom are the number of values less the number of configurations. So 5 configurations of 3 seeds have
    10 degrees of freedom, where each alone would have 2.
    """
    freedom = sum(len(seeds) - 1 for seeds in values.values())
    means = {key: sum(seeds) / len(seeds) for key, seeds in values.items()}
    squares = sum((value - means[key]) ** 2 for key, seeds in values.items() for value in seeds)
    found = []
    for key, seeds in values.items():
        half = math.nan
        if freedom:
            from scipy.special import stdtrit  # loads for a while, and only the end of a sweep needs it

            half = float(stdtrit(freedom, 0.975)) * math.sqrt(squares / freedom / len(seeds))
        found.append(Fresh(key, len(seeds), means[key], means[key] - half, means[key] + half))
    return sorted(found, key=lambda each: -each.mean)
