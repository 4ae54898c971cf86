"""The lines of a claims file: `accuracy, last - none > 0.2 points`.

    MEASURE, SUM > BOUND        a weighted sum of the means of arms, such as `both - bn - dropout + none`
    MEASURE, ARM / ARM < BOUND  the ratio of two times, for the measure `seconds an epoch`

A line reads as the ledger prints it. Its bound is in the measure's unit, which may follow it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from sweeper.replication.claims.measures import LOG_SECONDS, MEASURES, OVERFITTING, PER_UNIT, find_measure

ARM: Final = r"[a-z][a-z0-9.-]{0,99}"
NUMBER: Final = r"\d+(?:\.\d+)?"
TERM: Final = re.compile(rf"(?:(?P<sign>[+-])\s+)?(?:(?P<weight>{NUMBER})\s+)?(?P<arm>{ARM})")
SUM: Final = re.compile(rf"\s*(?:-\s+)?(?:{NUMBER}\s+)?{ARM}(?:\s+[+-]\s+(?:{NUMBER}\s+)?{ARM})*\s*")
RATIO: Final = re.compile(rf"\s*({ARM})\s*/\s*({ARM})\s*")
LINE: Final = re.compile(r"(?P<measure>[^<>]+),(?P<arms>[^<>,]+)(?P<sign>[<>])(?P<bound>[^<>]+)")
BOUND: Final = re.compile(rf"\s*(?P<value>[+-]?{NUMBER}(?:e[+-]?\d+)?)\s*(?P<unit>\S.*?)?\s*")
EXAMPLE: Final = "accuracy, first - second > 0"


class Line(NamedTuple):
    """One question of a claims file.

    Attributes:
        measure: its name.
        weights: of the arms; of a ratio 1 and -1.
        label: the arms as they were written.
        ratio: True for the ratio of two times.
        direction: +1 for above the bound, -1 for below it.
        bound: in the unit of the measure as it is computed, so that one point of accuracy is 0.01.
    """

    measure: str
    weights: dict[str, float]
    label: str
    ratio: bool
    direction: int
    bound: float


def parse_line(text: str) -> Line:
    """Return the question that a line asks.

    Raises:
        ValueError: it asks none; the message says what is wrong.
    """
    found = LINE.fullmatch(text)
    if not found:
        raise ValueError(f"{text[:80]!r} is not MEASURE, ARM - ARM > BOUND, such as {EXAMPLE!r}")
    name, arms = found["measure"].strip(), found["arms"]
    ratio = name == LOG_SECONDS.name
    unit = _unit(name)
    weights = _ratio(arms) if ratio else _sum(arms)
    if name == OVERFITTING and (len(weights) > 1 or found["sign"] == "<" or _bound(found["bound"], unit)):
        raise ValueError(f"{OVERFITTING!r} is asked of one arm, with > 0")
    label = " ".join(arms.split())
    return Line(name, weights, label, ratio, 1 if found["sign"] == ">" else -1, _bound(found["bound"], unit))


def _unit(name: str) -> str:
    """Return the unit of a measure."""
    if name == OVERFITTING:
        return "nats"
    measure = find_measure(name)
    if measure is None:
        known = ", ".join([*MEASURES, "epochs to N % accuracy", OVERFITTING])
        raise ValueError(f"unknown measure {name[:60]!r}; the measures are {known}")
    return measure.unit


def _sum(text: str) -> dict[str, float]:
    if not SUM.fullmatch(text):
        raise ValueError(
            f"{text.strip()[:80]!r} is not a sum of arms, such as 'first - second', with spaces around the -"
        )
    weights: dict[str, float] = {}
    for term in TERM.finditer(text):
        weight = float(term["weight"] or 1) * (-1 if term["sign"] == "-" else 1)
        if term["arm"] in weights:
            raise ValueError(f"arm {term['arm']!r} is there twice")
        weights[term["arm"]] = weight
    return weights


def _ratio(text: str) -> dict[str, float]:
    found = RATIO.fullmatch(text)
    if not found or found[1] == found[2]:
        raise ValueError(f"{LOG_SECONDS.name!r} compares two arms, such as 'first / second'")
    return {found[1]: 1.0, found[2]: -1.0}


def _bound(text: str, unit: str) -> float:
    """Return a bound as the measure is computed."""
    found = BOUND.fullmatch(text)
    said = "" if unit == "ratio" else unit  # a bound of 1.15 times
    if not found or (found["unit"] or said) != said:
        raise ValueError(f"{text.strip()[:40]!r} is not a number" + (f" of {said}" if said else ""))
    return float(found["value"]) / PER_UNIT.get(unit, 1)


def arms_of(lines: Iterator[Line]) -> Iterator[str]:
    """The arms that lines name."""
    return (arm for line in lines for arm in line.weights)
