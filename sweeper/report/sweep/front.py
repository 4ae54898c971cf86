"""The front of a sweep: the configurations that no other surpasses in accuracy, loss and time together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sweeper.report.sweep.rows import Configuration


def front(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Return the configurations on the front of mean accuracy, mean loss and mean seconds, in their order.

    Those without a loss or a time are left out.
    """
    known = [(c, (-c.standing.shrunken, c.loss, c.seconds)) for c in configurations if c.loss is not None and c.seconds]
    return [known[i][0] for i in pareto([point for _, point in known])]


def pareto(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other dominates, ascending. Smaller coordinates are better.

    A point dominates another if it is at least as good in each coordinate, and better in one. In the order of the
    coordinates a point can be dominated by earlier ones only, and then by one of those that none dominates.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: tuple(points[i])):
        if not any(_dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return sorted(kept)


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)
