"""The interactive charts of a sweep: the tuples that they draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeper.core.config import LAYERED
from sweeper.core.metric import ACCURACY, LOSS
from sweeper.report.figure import VERMILLION
from sweeper.report.page import PALETTE
from sweeper.report.sweep.charts import (
    MOST_CURVES,
    PLACEMENT_COLORS,
    confusion,
    curves,
    per_class,
    pruned_epochs,
    shown,
)
from sweeper.report.sweep.landscape import kernel_mean, numeric_pair, rate_map
from sweeper.report.sweep.parallel import BELOW, metric_axis, parallel, parameter_axis
from tests.support.swept import CHAMPION, IMPORTANCES, searched, sweep, trial


@pytest.mark.parametrize(
    ("value", "words"),
    [("bn", "bn"), (128, "128"), (0.0474, "0.0474"), (1e-4, "1e-4"), (2.5e-4, "2.5e-4"), (0.0, "0"), (2e6, "2e+06")],
)
def test_a_value_is_shown_as_a_user_writes_it(value: float | str, words: str) -> None:
    assert shown(value) == words


def test_curves_draw_the_best_last_and_the_pruned_faint() -> None:
    ranked = [trial(i, 0.9 - i / 100, params={"placement": "ic" if i else "bn"}) for i in range(30)]
    figure = curves(ranked, [trial(99, state="pruned")], ACCURACY)
    assert [trace.name for trace in figure.data] == ["pruned", "ic", "best, 0"]
    assert figure.data[-1].line.color == VERMILLION
    assert list(figure.data[1].y).count(None) == MOST_CURVES - 1
    assert figure.data[0].opacity < 0.5


def test_each_placement_has_a_colour_of_its_own_in_light_and_in_dark() -> None:
    assert list(PLACEMENT_COLORS) == [placement.value for placement in LAYERED]
    both = dict(PALETTE.values())
    for colours in (PLACEMENT_COLORS.values(), [both[light] for light in PLACEMENT_COLORS.values()]):
        assert len({*colours, VERMILLION}) == len(LAYERED) + 1


def test_curves_leave_out_a_metric_that_nobody_has() -> None:
    only = trial(0, epochs=[{"epoch": 1.0, "val/accuracy": 0.5}])
    assert [list(trace.y) for trace in curves([only], [], LOSS).data] == []


def test_pruned_trials_are_counted_by_epoch() -> None:
    (bars,) = pruned_epochs([trial(0), trial(1, epochs=[{"epoch": 1.0}]), trial(2)], 4).data
    assert (list(bars.x), list(bars.y)) == ([1, 2, 3, 4], [1, 0, 2, 0])


def test_confusion_colours_errors_alone() -> None:
    right, wrong = confusion(CHAMPION).data
    assert [list(line) for line in right.z] == [[7, None], [None, 9]]
    assert [list(line) for line in wrong.z] == [[None, 3], [1, None]]
    assert per_class(CHAMPION) == [("Coat", 10, 0.7, "Shirt (3)"), ("Shirt", 10, 0.9, "Coat (1)")]


def test_a_class_that_is_never_mistaken_is_taken_for_nothing() -> None:
    assert per_class(CHAMPION._replace(confusion=[[5, 0], [0, 0]]))[0] == ("Coat", 5, 1.0, "")
    assert math.isnan(per_class(CHAMPION._replace(confusion=[[5, 0], [0, 0]]))[1][2])


# --- landscape ------------------------------------------------------------------------------------


def test_a_rate_map_means_over_the_trials_of_a_cell() -> None:
    trials = [
        trial(0, 0.8, params={"placement": "ic", "conv_dropout": 0.0}),
        trial(1, 0.9, params={"placement": "ic", "conv_dropout": 0.05}),
        trial(2, 0.7, params={"placement": "dropout", "conv_dropout": 0.5}),
        trial(3, 0.1, params={"placement": "bn"}),
    ]
    cells = rate_map(trials, "conv_dropout")
    assert cells is not None
    assert cells.placements == ["dropout", "ic"]
    assert cells.counts.tolist() == [[0, 0, 0, 0, 1], [2, 0, 0, 0, 0]]
    assert cells.means[1, 0] == pytest.approx(0.85)
    assert math.isnan(cells.means[0, 0])
    assert rate_map(trials, "head_dropout") is None


def test_a_rate_that_never_varies_is_one_bin() -> None:
    cells = rate_map([trial(0, params={"placement": "ic", "conv_dropout": 0.1})] * 2, "conv_dropout")
    assert cells is not None
    assert cells.counts.tolist() == [[2]]


def test_the_contour_takes_the_most_important_numbers_that_trials_have_together() -> None:
    trials = searched(30)
    assert numeric_pair(sweep(*trials, importances=IMPORTANCES)) == ("batch_size", "head_dropout")
    assert numeric_pair(sweep(*trials)) == ("batch_size", "conv_dropout")
    assert numeric_pair(sweep(*trials[:9])) is None


def test_a_kernel_mean_is_near_its_trials_and_empty_far_from_them() -> None:
    mean = kernel_mean(np.array([0.0, 0.1]), np.array([0.0, 0.0]), np.array([0.5, 0.7]))
    assert 0.5 < mean[0, 0] < 0.6
    assert math.isnan(mean[-1, -1])
    assert np.nanmin(mean) >= 0.5
    assert np.nanmax(mean) <= 0.7


# --- parallel coordinates -------------------------------------------------------------------------


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
    axis = metric_axis([0.10, 0.90, 0.91, 0.92, 0.93, 0.94], ACCURACY)
    assert axis.heights == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.75, 1.0])
    assert axis.ticks == {0.0: "90.00%", 1.0: "94.00%"}


def test_every_trial_is_one_line_and_the_best_comes_last() -> None:
    found = sweep(*searched())
    figure = parallel(found.ranked(), ACCURACY)
    best = figure.data[-1]
    assert best.line.color == VERMILLION
    assert best.text[0].startswith("<b>trial 11</b>, complete<br>91.00%")
    assert sum(list(trace.y).count(None) for trace in figure.data) == len(found.trials)
    assert list(figure.layout.xaxis.ticktext) == [*found.parameters, "accuracy"]


def test_a_parameter_that_no_complete_trial_has_gets_no_axis() -> None:
    found = sweep(trial(0), trial(1, None, state="running", params={"placement": "ic", "lr": 0.1}))
    assert list(parallel(found.ranked(), ACCURACY).layout.xaxis.ticktext) == ["placement", "batch_size", "accuracy"]
