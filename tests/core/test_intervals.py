"""Intervals of an accuracy, against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep

from sweeper.core.intervals import accuracy_interval, accuracy_words, difference_margin, with_interval
from sweeper.core.metric import ACCURACY, ECE, LOSS


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (1, 1), (870, 1_000), (9_480, 10_000)])
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    wilson = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(right / images, images) == pytest.approx((wilson.low, wilson.high), abs=1e-6)


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 1_000), (0.86, 1_000), (0.948, 10_000)])
def test_the_margin_is_half_the_interval_of_a_difference(accuracy: float, images: int) -> None:
    right = round(accuracy * images)
    low, high = confint_proportions_2indep(right, images, right, images, method="wald", compare="diff")
    assert difference_margin(accuracy, images) == pytest.approx((high - low) / 2, abs=1e-6)


def test_equal_networks_differ_by_more_than_the_margin_in_one_of_twenty_pairs() -> None:
    """The error of one accuracy in place of that of a difference would find 17 %, one standard error 48 %."""
    right = np.random.default_rng(0).binomial(1_000, 0.9, (2, 20_000)) / 1_000
    apart = np.abs(right[0] - right[1]) > difference_margin(0.9, 1_000)
    assert 0.04 < apart.mean() < 0.06


def test_a_champion_without_an_interval_is_given_it() -> None:
    metrics = with_interval({"test/accuracy": 0.87, "test/loss": 0.4}, 1_000)
    assert list(metrics) == ["test/accuracy", "test/loss", "test/accuracy_low", "test/accuracy_high"]
    assert accuracy_words(metrics, ACCURACY) == "0.8700, 95 % interval [0.8477, 0.8894]"
    assert with_interval(metrics, 1_000) == metrics


@pytest.mark.parametrize("images", [None, "many", 0, -1, 10**400])
@pytest.mark.parametrize("accuracy", [0.87, math.nan, 1.5])
def test_without_a_number_of_images_there_is_no_interval(accuracy: float, images: object) -> None:
    metrics = with_interval({"test/accuracy": accuracy}, images)
    assert list(metrics) == ["test/accuracy"]
    assert accuracy_words({"test/accuracy": 0.87}, ACCURACY) == "0.8700"
    assert with_interval({}, 1_000) == {}


def test_the_test_value_of_another_metric_stands_behind_the_accuracy() -> None:
    metrics = {"test/accuracy": 0.87, "test/loss": 0.4123, "test/ece": 0.0213}
    assert accuracy_words(metrics, LOSS) == "0.8700; loss 0.4123"
    assert accuracy_words(metrics, ECE) == "0.8700; ECE 0.0213"
