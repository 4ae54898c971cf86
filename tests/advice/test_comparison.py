"""Intervals that hold together, and what they settle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.advice.comparison import Comparison, Look, mean_interval
from sweeper.replication.claims.ledger import spent

ARMS = ("none", "bn", "dropout", "bn-dropout")


def _values(means: list[float], seeds: int, noise: list[float], luck: int) -> dict[str, list[float]]:
    draw = np.random.default_rng(luck)
    return {
        arm: list(mean + spread * draw.normal(size=seeds)) for arm, mean, spread in zip(ARMS, means, noise, strict=True)
    }


def width(variance: float, placements: int, freedom: float, seeds: int = 5) -> float:
    """Half of a Tukey interval, by scipy's quantile, at the level that the look spends."""
    level = 0.05 * spent(seeds)
    return float(stats.studentized_range.isf(level, placements, freedom)) * math.sqrt(variance / seeds)


def test_the_interval_is_that_of_its_own_variances() -> None:
    values = {"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [2.0, 3.0, 4.0, 5.0, 6.0], "c": [6.0, 7.0, 8.0, 9.0, 30.0]}
    look = Look(values, 5, 3)
    own, welch = (2.5 + look.variances["c"]) / 2, (2.5 + look.variances["c"]) ** 2 / (2.5**2 + look.variances["c"] ** 2)
    found = look.difference("c", "a")
    assert found.estimate == pytest.approx(9.0)
    assert found.high - found.estimate == pytest.approx(width(own, 3, 1.5 * 4 * welch), rel=5e-3)


def test_a_pair_that_varies_little_by_chance_has_the_interval_of_the_median_variance() -> None:
    steady, usual = [0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 2.0, 3.0, 4.0]
    look = Look({"a": steady, "b": steady, "c": usual, "d": usual, "e": usual}, 5, 5)
    assert look.half_width(("a", "b"), 5) == pytest.approx(width(2.5, 5, 10), rel=5e-3)


def test_a_placement_that_varies_much_widens_no_interval_but_its_own() -> None:
    steady, unsteady = [0.0, 1.0, 2.0, 3.0, 4.0], [-200.0, 0.0, 2.0, 4.0, 240.0]
    alone = Look({"a": steady, "b": steady, "c": steady}, 5, 4).half_width(("a", "b"), 5)
    look = Look({"a": steady, "b": steady, "c": steady, "d": unsteady}, 5, 4)
    assert look.half_width(("a", "b"), 5) == pytest.approx(alone, rel=0.1)
    assert look.half_width(("a", "d"), 5) > 20 * alone


def test_equal_values_have_no_width() -> None:
    found = Look({"a": [0.5] * 3, "b": [0.6] * 3}, 3, 2).difference("b", "a")
    assert found.low == found.high == pytest.approx(0.1)


@pytest.mark.parametrize("noise", [[1.0] * 4, [0.3, 0.3, 0.6, 2.0]], ids=["equal", "unequal"])
def test_few_comparisons_call_a_placement_worse_that_is_not(noise: list[float]) -> None:
    """Of 300 comparisons of equal placements at all looks; 5 % are allowed, 300 show at most 8.3 % at 99 %."""
    wrong = 0
    for luck in range(300):
        comparison, values = Comparison(len(ARMS)), _values([0.0] * 4, 20, noise, luck)
        for seeds in (3, 5, 10, 20):
            comparison.look({arm: each[:seeds] for arm, each in values.items()}, seeds)
        wrong += any(found.told for found in comparison.found.values())
    assert wrong <= 25


def test_a_difference_stays_as_it_was_told() -> None:
    comparison = Comparison(2)
    comparison.look({"bn": [0.9, 0.91, 0.9], "none": [0.1, 0.11, 0.1]}, 3)
    told = comparison.between("bn", "none")
    comparison.look({"bn": [0.5, 0.4, 0.6, 0.5, 0.4], "none": [0.5, 0.4, 0.6, 0.5, 0.4]}, 5)
    assert told is not None
    assert told.told
    assert comparison.between("bn", "none") == told
    assert comparison.between("none", "bn") == told.turned()


def test_small_differences_are_settled() -> None:
    comparison = Comparison(2)
    comparison.look({"bn": [0.9, 0.9001, 0.9002], "none": [0.9001, 0.9, 0.9002]}, 3)
    found = comparison.between("bn", "none")
    assert found is not None
    assert (found.told, found.small, found.settled) == (False, True, True)


def test_more_seeds_are_those_of_the_look_that_would_tell() -> None:
    comparison = Comparison(2)
    values = {"bn": [0.0, 2.0, 4.0, 1.0, 3.0], "none": [4.0, 2.0, 6.0, 5.0, 3.0]}
    comparison.look(values, 5)
    more = comparison.more_seeds("bn", "none")
    assert more is not None
    look = comparison.looks[-1]
    assert look.half_width(("bn", "none"), 5 + more) < 2.0 < look.half_width(("bn", "none"), 5)
    assert comparison.more_seeds("bn", "missing") is None


def test_a_contrast_of_four_is_as_wide_as_twice_a_difference() -> None:
    look = Look(_values([0.0, 1.0, 1.0, 1.5], 5, [1.0] * 4, 1), 5, 4)
    found = look.contrast({"bn": 1.0, "dropout": 1.0, "none": -1.0, "bn-dropout": -1.0})
    variances = np.array(list(look.variances.values()))
    welch = variances.sum() ** 2 / (variances**2).sum() * 4
    single = max(width(variances.mean(), 4, min(1.5 * welch, 16)), width(float(np.median(variances)), 4, 8))
    assert (found.high - found.low) / 2 == pytest.approx(2 * single, rel=5e-3)


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.1, 0.2, 0.4, 0.3]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert all(map(math.isnan, mean_interval([0.5])))
    assert mean_interval([0.99, 0.97])[1] == 1.0
