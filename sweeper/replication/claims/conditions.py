"""From the conditions of a claims file to the questions that the ledger asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sweeper.replication.article import Reproduction
from sweeper.replication.claims.lines import parse_line
from sweeper.replication.claims.measures import OVERFITTING, find_measure
from sweeper.replication.claims.questions import Question, all_of, any_of, contrast, overfits, time_ratio

# A line, or the word all or any with several conditions.
Condition = str | Mapping[str, Sequence["Condition"]]
JOINED: Final[Mapping[str, Callable[..., Question]]] = {"all": all_of, "any": any_of}


def question(condition: Condition, of: Reproduction) -> Question:
    """Return the question that a condition asks of the arms of a reproduction."""
    if not isinstance(condition, str):
        ((word, parts),) = condition.items()
        return JOINED[word](*(question(part, of) for part in parts))
    line = parse_line(condition)
    if line.measure == OVERFITTING:
        (arm,) = line.weights
        return overfits(arm, of.config(arm, seed=0).epochs)
    if line.ratio:
        first, second = line.weights
        return time_ratio(first, second, line.direction, line.bound)
    measure = find_measure(line.measure)
    assert measure is not None  # parse_line has found it
    return contrast(measure, line.weights, line.label, line.direction, line.bound)
