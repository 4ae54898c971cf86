from __future__ import annotations

from dataclasses import fields

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult
from sweeper.data.splits import Split, fold
from sweeper.training.folds import cross_validate, finish
from sweeper.training.images import Data
from sweeper.training.loop import train

CONFIG = RunConfig(model="small", epochs=2, batch_size=64, dataset="sample", split="folds", folds=3)


@pytest.fixture(scope="module")
def three(tiny: Data) -> list[Data]:
    images = tiny.arrays().train
    return [Data.from_arrays(Split(*fold(images, k, 3), tiny.spec)) for k in range(3)]


def test_cross_validation_is_the_mean_of_separate_trainings(three: list[Data]):
    result = finish(cross_validate(CONFIG, three))
    apart = [finish(train(CONFIG, data)) for data in three]
    measured = [f.name for f in fields(EpochResult) if f.name not in ("epoch", "epoch_s", "images_per_s")]
    for number, mean in enumerate(result.history):
        assert mean.epoch == number + 1
        for name in measured:
            assert getattr(mean, name) == pytest.approx(sum(getattr(r.history[number], name) for r in apart) / 3), name
    assert result.fold_accuracies == tuple(r.evaluation.accuracy for r in apart)
    assert result.evaluation.accuracy == pytest.approx(sum(result.fold_accuracies) / 3)
    assert (result.evaluation.confusion == sum(r.evaluation.confusion for r in apart)).all()
    assert result.weights == {}


def test_the_history_is_what_was_yielded_and_a_closed_one_ends(three: list[Data]):
    training = cross_validate(CONFIG, three)
    first = next(training)
    assert finish(training).history[0] == first
    closed = cross_validate(CONFIG, three)
    next(closed)
    closed.close()
    assert list(closed) == []
