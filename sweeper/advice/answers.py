"""The answers to the standard questions about a network, and the reasons, in sentences.

Differences come from the comparison, so all sentences based on them are true simultaneously with probability 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sweeper.advice.comparison import SMALL, Arm, Comparison, Difference
from sweeper.advice.questions import QUESTIONS, REDUNDANCY, Question

Measures = Mapping[str, float]


class Answer(NamedTuple):
    """The answer to a question, in one sentence."""

    asks: str
    sentence: str
    difference: Difference | None


def answers(comparison: Comparison, measures: Mapping[Arm, Measures]) -> list[Answer]:
    """Return the answers to the questions that the compared placements can answer."""
    found = [answer for question in QUESTIONS if (answer := _answer(question, comparison))]
    if redundancy := comparison.contrast(REDUNDANCY):
        found.append(Answer("Do the two layers do the same work?", _redundancy(redundancy), redundancy))
    if cost := _cost(measures):
        found.append(Answer("What does BatchNorm cost?", cost, None))
    return found


def _answer(question: Question, comparison: Comparison) -> Answer | None:
    found = [each for pair in question.pairs if (each := comparison.between(*pair))]
    if not found:
        return None
    difference = _largest(found)
    return Answer(question.asks, f"{question.subject} {_effect(difference, safe=question.safe)}.", difference)


def _largest(found: Sequence[Difference]) -> Difference:
    """The largest of several differences. Its interval ends at the largest lower and at the largest upper end."""
    best = max(found, key=lambda each: each.estimate)
    return best._replace(low=max(each.low for each in found), high=max(each.high for each in found))


def _effect(difference: Difference, *, safe: bool) -> str:
    size, low, high = (100 * value for value in (difference.estimate, difference.low, difference.high))
    if difference.low > 0:
        return f"gains {size:.1f} points [{low:.1f}, {high:.1f}]"
    if difference.high < 0:
        return f"costs {-size:.1f} points [{-high:.1f}, {-low:.1f}]"
    if difference.small:
        return f"makes no difference of {100 * SMALL:g} points or more [{low:.1f}, {high:.1f}]"
    if safe and difference.low > -SMALL:
        return f"is safe: it costs less than {100 * SMALL:g} points [{low:.1f}, {high:.1f}]"
    reach = (high - low) / 2
    return f"shows no clear difference [{low:.1f}, {high:.1f}]; one of {reach:.1f} points would have been found"


def _redundancy(found: Difference) -> str:
    size, low, high = (100 * value for value in (found.estimate, found.low, found.high))
    if found.low > 0:
        return f"Together they gain {size:.1f} points less than the sum of both alone [{low:.1f}, {high:.1f}]."
    if found.high < 0:
        return f"Together they gain {-size:.1f} points more than the sum of both alone [{-high:.1f}, {-low:.1f}]."
    return f"Not settled: together they gain between {low:.1f} and {high:.1f} points less than the sum of both alone."


def _cost(measures: Mapping[Arm, Measures]) -> str:
    """Return the cost of BatchNorm alone: time per epoch, and memory for the activations of a batch."""
    plain, normed = (measures.get(arm, {}) for arm in ("none", "bn"))
    if not {"epoch_s", "activations_mb"} <= plain.keys() & normed.keys():
        return ""
    time = f"{_more(normed, plain, 'epoch_s')} time than the {plain['epoch_s']:.2g} s without"
    memory = f"{_more(normed, plain, 'activations_mb')} memory than the {plain['activations_mb']:.3g} MB"
    return f"With BatchNorm an epoch takes {time}; the activations of a batch take {memory}."


def _more(one: Measures, other: Measures, name: str) -> str:
    change = 100 * (one[name] / other[name] - 1)
    return f"{abs(change):.0f} % {'more' if change >= 0 else 'less'}"


def reasons(found: Measures, plain: Measures) -> list[str]:
    """Return what the X-ray and the losses show for a placement, next to those of the plain network.

    Losses are in nats, of the last epoch. The calibration error is the ECE (Guo et al. 2017, arXiv 1706.04599).
    """
    sentences = []
    if "signed" in found:
        gain = f"; recalibrating them gains {100 * found['gain']:+.1f} points" if "gain" in found else ""
        sentences.append(
            f"In training its BatchNorm layers see {math.exp(-found['signed']):.2f} times the variance of evaluation "
            f"(X-ray){gain}."
        )
    if {"loss", "train_loss"} <= found.keys():
        beside = f"; the plain network's are {plain['train_loss']:.2f} and {plain['loss']:.2f}" if plain else ""
        sentences.append(
            f"Its train loss is {found['train_loss']:.2f}, its validation loss {found['loss']:.2f}{beside}."
        )
    if "ece" in found:
        beside = f" (plain: {100 * plain['ece']:.1f} %)" if "ece" in plain else ""
        sentences.append(f"Its calibration error on the validation images is {100 * found['ece']:.1f} %{beside}.")
    return sentences
