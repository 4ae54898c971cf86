from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sweeper.core.results import EpochResult
from sweeper.tracking.epochs import epoch_metrics, read_epoch

EPOCH = EpochResult(3, 0.5, 0.9, 0.75, 0.5, 0.1, 1e-3, 2.0, 1.0, 300.0)


@pytest.mark.parametrize("epoch", [EPOCH, replace(EPOCH, beside=2)])
def test_an_epoch_is_read_back_as_it_was(epoch: EpochResult) -> None:
    assert read_epoch(3, epoch_metrics(epoch)) == epoch


def test_the_gap_of_an_epoch_is_positive_where_validation_is_worse() -> None:
    metrics = epoch_metrics(EPOCH)
    assert metrics["gap/loss"] == 0.25
    assert metrics["gap/accuracy"] == pytest.approx(0.4)


def test_only_a_training_that_shared_its_gpu_says_with_how_many() -> None:
    assert epoch_metrics(replace(EPOCH, beside=2)).items() - epoch_metrics(EPOCH).items() == {("time/beside", 2)}


def test_a_value_that_was_not_stored_is_nan() -> None:
    found = read_epoch(3, {"val/loss": 0.75, "stack/members": 4})
    assert (found.val_loss, found.beside) == (0.75, 0)
    assert math.isnan(found.epoch_s)
