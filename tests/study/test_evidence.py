"""Standings against the definition, and against the truth of simulations."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from sweeper.core.metric import ACCURACY, LOSS
from sweeper.study.evidence import by_configuration, standings
from sweeper.study.rows import TrialRow


def test_means_are_drawn_towards_the_mean_of_all_by_the_formula() -> None:
    """Balanced, so that the moments are those of a one-way analysis of variance."""
    values = {"a": [0.80, 0.82], "b": [0.84, 0.88], "c": [0.89, 0.90]}
    found = {each.key: each for each in standings(values, ACCURACY)}
    noise = np.mean([np.var(seeds, ddof=1) for seeds in values.values()])
    means = {key: float(np.mean(seeds)) for key, seeds in values.items()}
    between = np.var(list(means.values()), ddof=1) - noise / 2
    centre = np.mean(list(means.values()))
    kept = between / (between + noise / 2)
    half = stats.t.ppf(0.975, 3) * math.sqrt(noise / 2)
    for key, mean in means.items():
        assert found[key].mean == pytest.approx(mean)
        assert found[key].shrunken == pytest.approx(centre + kept * (mean - centre))
        assert (found[key].low, found[key].high) == pytest.approx(
            (found[key].shrunken - half, found[key].shrunken + half)
        )
    assert [each.key for each in standings(values, ACCURACY)] == ["c", "b", "a"]


def test_one_lucky_seed_does_not_stand_above_three_good_ones() -> None:
    found = standings(
        {"lucky": [0.910], "good": [0.902, 0.912, 0.907], "bad": [0.88, 0.91], "worse": [0.87, 0.89]}, ACCURACY
    )
    assert [each.key for each in found][:2] == ["good", "lucky"]
    assert found[1].mean > found[0].mean


def test_where_nothing_was_repeated_means_stay_and_no_interval_is_given() -> None:
    found = standings({"a": [0.8], "b": [0.9]}, ACCURACY)
    assert [(each.key, each.n, each.mean, each.shrunken) for each in found] == [("b", 1, 0.9, 0.9), ("a", 1, 0.8, 0.8)]
    assert all(math.isnan(each.low) and math.isnan(each.high) for each in found)


def test_configurations_that_differ_by_noise_alone_get_one_mean() -> None:
    found = standings({"a": [0.80, 0.90], "b": [0.81, 0.895], "c": [0.79, 0.92]}, ACCURACY)
    assert len({round(each.shrunken, 12) for each in found}) == 1
    assert [each.key for each in found] == ["c", "b", "a"]  # ties by mean, then by key


@pytest.mark.parametrize("values", [{}, {"a": [0.5]}, {"a": [0.5, 0.5]}, {"a": [0.5, 0.5], "b": [0.6, 0.6]}])
def test_few_or_equal_values_are_no_error(values: dict[str, list[float]]) -> None:
    found = standings(values, ACCURACY)
    assert {each.key: each.shrunken for each in found} == {key: seeds[0] for key, seeds in values.items()}


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_the_interval_of_the_first_holds_the_truth_and_its_mean_is_not_too_high(spread: float) -> None:
    draw = np.random.default_rng(0)
    inside, plain, shrunken = 0, 0.0, 0.0
    for _ in range(400):
        true = draw.normal(0.0, spread, 5)
        values = {str(i): list(true[i] + draw.normal(0.0, 0.25, 3)) for i in range(5)}
        first = standings(values, ACCURACY)[0]
        inside += first.low <= true[int(first.key)] <= first.high
        plain += (first.mean - true[int(first.key)]) / 400
        shrunken += (first.shrunken - true[int(first.key)]) / 400
    assert inside / 400 > 0.92
    assert abs(shrunken) < max(0.06, plain / 2)


def test_importing_it_loads_no_scipy() -> None:
    code = "import sys, sweeper.study.evidence; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lowest_losses_come_first_with_the_means_and_intervals_of_their_own_scale() -> None:
    values = {"a": [0.80, 0.82], "b": [0.84, 0.88], "c": [0.89, 0.90]}
    losses = {key: [5 * (1 - value) for value in seeds] for key, seeds in values.items()}
    by_accuracy = standings(values, ACCURACY)
    by_loss = standings(losses, LOSS)
    assert [each.key for each in by_loss] == [each.key for each in by_accuracy] == ["c", "b", "a"]
    for found, mirrored in zip(by_loss, by_accuracy, strict=True):
        assert found.shrunken == pytest.approx(5 * (1 - mirrored.shrunken))
        assert (found.low, found.high) == pytest.approx((5 * (1 - mirrored.high), 5 * (1 - mirrored.low)))


def test_configurations_of_the_lowest_loss_come_first() -> None:
    rows = [TrialRow(n, "complete", value, value, {"batch_size": n}, 1, 1.0, "") for n, value in enumerate((0.4, 0.3))]
    assert [standing.key for _, standing in by_configuration(rows, LOSS)] == ["1", "0"]
    assert [standing.key for _, standing in by_configuration(rows, ACCURACY)] == ["0", "1"]
