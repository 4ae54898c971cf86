"""Parallel coordinates: where values stand on their axes, and which lines are drawn."""

from __future__ import annotations

import pytest

from sweeper.report.figure import VERMILLION
from sweeper.report.sweep.parallel import BELOW, accuracy_axis, parallel, parameter_axis
from tests.support.swept import searched, sweep


def test_words_stand_at_equal_distances_in_the_order_of_the_placements() -> None:
    axis = parameter_axis("placement", ["ic", "bn", "none", "bn"])
    assert axis.heights == [0.0, 0.5, 1.0, 0.5]
    assert axis.ticks == {1.0: "none", 0.5: "bn", 0.0: "ic"}


def test_a_missing_parameter_stands_below_its_axis() -> None:
    axis = parameter_axis("head_dropout", [0.1, None, 0.5])
    assert axis.heights == [0.0, BELOW, 1.0]
    assert axis.ticks == {0.0: "0.1", 1.0: "0.5", BELOW: "none"}


def test_numbers_stand_to_scale_and_some_to_their_logarithm() -> None:
    assert parameter_axis("head_dropout", [0.1, 0.2, 0.5]).heights == pytest.approx([0.0, 0.25, 1.0])
    assert parameter_axis("lr", [1e-4, 1e-3, 1e-2]).heights == pytest.approx([0.0, 0.5, 1.0])
    assert parameter_axis("weight_decay", [0.0, 1.0, 4.0]).heights == pytest.approx([0.0, 0.25, 1.0])
    assert parameter_axis("seed", [3, 3]).heights == [0.5, 0.5]


def test_many_numbers_are_marked_at_both_ends() -> None:
    assert parameter_axis("seed", list(range(30))).ticks == {0.0: "0", 1.0: "29"}


def test_the_axis_of_accuracies_holds_outliers_at_its_foot() -> None:
    axis = accuracy_axis([0.10, 0.90, 0.91, 0.92, 0.93, 0.94])
    assert axis.heights == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.75, 1.0])
    assert axis.ticks == {0.0: "90.00%", 1.0: "94.00%"}


def test_every_trial_is_one_line_and_the_best_comes_last() -> None:
    found = sweep(*searched())
    figure = parallel(found.ranked(), found.parameters)
    best = figure.data[-1]
    assert best.line.color == VERMILLION
    assert best.text[0].startswith("<b>trial 11</b>, complete<br>91.00%")
    assert sum(list(trace.y).count(None) for trace in figure.data) == len(found.trials)
    assert list(figure.layout.xaxis.ticktext) == [*found.parameters, "accuracy"]
