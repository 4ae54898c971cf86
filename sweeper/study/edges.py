"""The edges of a search space: if the best configuration is at one, better ones may lie beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from sweeper.study.space import Choice, Range, Space

NEAR: Final = 0.05  # of a range, from its end
LEAST: Final = {"batch_size": 2}  # as BatchNorm needs; no other number can lie below 0


def edges(space: Space, params: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each numeric parameter of the best configuration that is at an edge of its range."""
    found = []
    for name, value in params.items():
        dimension = space.dimensions.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or dimension is None:
            continue
        least = LEAST.get(name, 0)
        words = _of_choice(dimension, value, least) if isinstance(dimension, Choice) else _of_range(dimension, value)
        if words:
            found.append(f"The best {name.replace('_', ' ')}, {value:.3g}, {words}.")
    return found


def _of_choice(choice: Choice, value: float, least: float) -> str:
    numbers = [each for each in choice.values if not isinstance(each, str)]
    if len(numbers) < 2 or min(numbers) < value < max(numbers) or value <= least:
        return ""
    if value == min(numbers):
        return "is the smallest value searched: try smaller ones"
    return "is the largest value searched: try larger ones"


def _of_range(searched: Range, value: float) -> str:
    low, high = searched.low, searched.high
    if low == high:
        return ""
    scale = math.log if searched.log else float
    place = (scale(value) - scale(low)) / (scale(high) - scale(low))
    if NEAR < place < 1 - NEAR or (place <= NEAR and low <= 0):  # a rate of 0 was searched: there is nothing below
        return ""
    side, way = ("lower", "smaller") if place <= NEAR else ("upper", "larger")
    return f"is at the {side} end of the range searched, {low:g} to {high:g}: try {way} values"
