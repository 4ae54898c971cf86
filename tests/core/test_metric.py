"""The metrics that a study can search for."""

from __future__ import annotations

import pytest

from sweeper.core.errors import StudyConflict
from sweeper.core.metric import ACCURACY, ECE, LOSS, METRICS, Metric, metric_of
from tests.support.recorder import epoch, result
from tests.support.refusals import refusal


@pytest.mark.parametrize(("metric", "value"), [(ACCURACY, 0.5), (LOSS, 1.1), (ECE, 0.1)])
def test_a_metric_is_read_from_an_epoch_and_from_the_end_of_a_run(metric: Metric, value: float) -> None:
    assert metric.of(epoch(1)) == value
    assert result().metrics()[metric.final] == value


def test_less_cost_is_better() -> None:
    assert sorted([0.7, 0.9, 0.8], key=ACCURACY.cost) == [0.9, 0.8, 0.7]
    assert sorted([0.7, 0.9, 0.8], key=LOSS.cost) == [0.7, 0.8, 0.9]


def test_the_metric_comes_first_and_accuracy_and_loss_beside_it_once() -> None:
    assert ACCURACY.with_others == (ACCURACY, LOSS)
    assert LOSS.with_others == (LOSS, ACCURACY)
    assert ECE.with_others == (ECE, ACCURACY, LOSS)


def test_a_study_tells_its_metric_by_the_goal_that_it_recorded() -> None:
    assert [metric_of({"direction": metric.goal}) for metric in METRICS.values()] == [ACCURACY, LOSS, ECE]
    assert metric_of({"direction": "maximize val/accuracy", "sampler": "tpe"}) == ACCURACY  # as 0.1.0 recorded it
    assert metric_of({}) == ACCURACY


def test_a_goal_of_another_version_is_refused_with_those_that_are_known() -> None:
    message = refusal(lambda: metric_of({"direction": "minimize val/f1"}), StudyConflict)
    assert "'minimize val/f1'" in message
    assert "val/accuracy, val/loss, val/ece" in message
