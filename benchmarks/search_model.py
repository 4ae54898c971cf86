"""Judge configurations by a Gaussian process of all trainings, as a rule that the benchmark compares with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sweeper.core.config import Placement
from sweeper.study.space import Space
from sweeper.study.surrogate import Grid, Surrogate


def expected(space: Space, trained: Sequence[tuple[Mapping[str, Any], float]]) -> list[tuple[dict[str, Any], float]]:
    """Return the configurations of trainings with their mean accuracy in the model of all of them, the best first.

    `trained` has the parameters and the accuracy of each training, each seed of a configuration on its own.
    """
    grid = Grid(space, Placement.NONE)
    known = [dict(each) for each in {frozenset(params.items()) for params, _ in trained}]
    with threadpool_limits(1):
        model = Surrogate(grid.words, grid.encode([p for p, _ in trained]), np.array([value for _, value in trained]))
        mean, _ = model.predict(grid.encode(known))
    return sorted(zip(known, map(float, mean), strict=True), key=lambda each: (-each[1], str(sorted(each[0].items()))))
