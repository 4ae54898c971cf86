from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest

from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.data.fashion import CLASSES


def evaluation(*pairs: tuple[int, int]) -> Evaluation:
    """An evaluation of one right prediction a class, and one for each pair of a true and a predicted class."""
    confusion = np.eye(10, dtype=np.int64)
    for pair in pairs:
        confusion[pair] += 1
    return Evaluation(0.5, 0.9, 0.1, confusion, classes=CLASSES)


def result_of(accuracies: Sequence[float], folds: tuple[float, ...] = ()) -> TrainResult:
    history = [
        EpochResult(n, 0.5, 0.9, 0.75, accuracy, 0.1, 1e-3, 2.0, 1.0, 300.0) for n, accuracy in enumerate(accuracies, 1)
    ]
    return TrainResult(tuple(history), {}, evaluation(), folds)


def test_accuracy_per_class_is_the_recall_of_the_true_class():
    found = evaluation((1, 0))  # the second image of class 1 is taken for class 0
    assert found.per_class_accuracy == [1, 0.5, *[1] * 8]


def test_the_confusion_table_names_each_true_class_with_its_counts_and_accuracy():
    table = evaluation((1, 0), (1, 0)).confusion_csv().decode()
    rows = list(csv.reader(table.splitlines()))
    assert rows[0] == ["true class", *CLASSES, "accuracy"]
    assert rows[2] == ["Trouser", "2", "1", *["0"] * 8, "0.3333"]
    assert [row[0] for row in rows[1:11]] == list(CLASSES)


def test_final_is_the_last_epoch_and_best_the_one_of_the_highest_accuracy():
    metrics = result_of([0.5, 0.875, 0.625]).metrics()
    assert (metrics["final/val_accuracy"], metrics["best/val_accuracy"], metrics["best/epoch"]) == (0.625, 0.875, 2)


def test_the_result_of_an_epoch_takes_the_values_of_its_two_evaluations():
    train, val = Evaluation(0.5, 0.9, 0.2, np.eye(10)), Evaluation(0.75, 0.5, 0.1, np.eye(10))
    found = EpochResult.of(1, train, val, lr=1e-3, grad_norm=2.0, epoch_s=1.0, images_per_s=300.0)
    assert found == result_of([0.5]).history[0]


def test_the_deviation_over_folds_is_that_of_a_sample():
    metrics = result_of([0.5], folds=(0.5, 0.7)).metrics()
    assert metrics["final/val_accuracy_fold_sd"] == pytest.approx(0.2 / math.sqrt(2))


@pytest.mark.parametrize("name", [f.name for f in fields(EpochResult) if f.name != "beside"])
def test_the_hash_of_a_history_is_of_every_value_but_the_times(name: str):
    one = result_of([0.5])
    changed = replace(one, history=(replace(one.history[0], **{name: 2 * getattr(one.history[0], name)}),))
    assert (changed.history_sha256 == one.history_sha256) is (name in ("epoch_s", "images_per_s"))
