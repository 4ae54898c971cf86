"""Intervals of an accuracy that was measured on a finite number of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from sweeper.core.metric import ACCURACY, Metric

Z: Final = 1.959964  # the 97.5 % quantile of the standard normal distribution
TEST: Final = ACCURACY.test
LOW, HIGH = f"{TEST}_low", f"{TEST}_high"


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy in [0, 1] on `images` independent images.

    Wilson's score interval (Wilson 1927, JASA 22): (p + z²/2n ∓ z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n). It covers
    only the choice of images: another seed trains another network.
    """
    middle = accuracy + Z**2 / (2 * images)
    half = Z * math.sqrt(accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2))
    scale = 1 + Z**2 / images
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def difference_margin(accuracy: float, images: int) -> float:
    """Return half the 95 % interval of the difference of two accuracies near `accuracy`, each on `images` images.

    z sqrt(2 p(1 - p)/n), the interval of two independent shares: sqrt(2) times that of one. Two networks that are
    evaluated on the same images err on many of the same, so a test of the pairs (McNemar 1947, Psychometrika 12) could
    tell closer ones apart. It needs the predictions, which trials do not keep.
    """
    return Z * math.sqrt(2 * accuracy * (1 - accuracy) / images)


def with_interval(metrics: Mapping[str, float], images: object) -> dict[str, float]:
    """Add the interval of the test accuracy to a champion's metrics, if `images` is a number of test images.

    Version 0.1.0 recorded champions without it. `images` may be any value from a journal.
    """
    accuracy = metrics.get(TEST, math.nan)
    if not (isinstance(images, int) and 0 < images < 10**9 and 0 <= accuracy <= 1):
        return dict(metrics)
    return {**metrics, **dict(zip((LOW, HIGH), accuracy_interval(accuracy, images), strict=True))}


def limits(low: float, high: float) -> str:
    """Return an interval for the terminal, after a space; empty if it is unknown."""
    return f" [{low:.4f}, {high:.4f}]" if low < high else ""


def accuracy_words(metrics: Mapping[str, float], metric: Metric) -> str:
    """Return the test accuracy and, where it is known, its interval, for the terminal; then the test value of the
    metric that a study searched for, if it is another one."""
    interval = f", 95 % interval{limits(metrics[LOW], metrics[HIGH])}" if LOW in metrics else ""
    beside = "" if metric == ACCURACY else f"; {metric.noun} {metrics[metric.test]:.4f}"
    return f"{metrics[TEST]:.4f}{interval}{beside}"
