"""The page, the lines and the JSON of an advice."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from sweeper.advice.answers import answers, reasons
from sweeper.advice.comparison import Comparison, Difference
from sweeper.advice.design import Cell
from sweeper.advice.page import html, ranking_picture
from sweeper.advice.result import Advice, Row
from sweeper.advice.words import lines
from sweeper.core.experiments import experiment
from sweeper.core.placements import Placement

MEASURES = {"ece": 0.031, "loss": 0.4, "train_loss": 0.2, "epoch_s": 2.0, "signed": -0.2, "gain": 0.004}


def _row(placement: Placement, accuracy: float, behind: Difference | None, more: int | None = None) -> Row:
    cell = Cell.of(placement, 0.1, 0.35, 3.0)
    return Row(placement, cell, accuracy, accuracy - 0.01, accuracy + 0.01, 5, behind, more, MEASURES,
               [[accuracy - 0.1, accuracy]] * 5, 0)  # fmt: skip


@pytest.fixture
def advice() -> Advice:
    """Four placements: the best, one not told apart, one worse, one that diverged."""
    rows = [
        _row(Placement.BN_DROPOUT, 0.91, None),
        _row(Placement.BN, 0.905, Difference(5, 0.005, -0.002, 0.012), 5),
        _row(Placement.NONE, 0.86, Difference(5, 0.05, 0.04, 0.06)),
        Row(Placement.DROPOUT, None, math.nan, math.nan, math.nan, 0, None, None, {}, [], 3),
    ]
    comparison = Comparison(4)
    comparison.look({"bn": [0.9, 0.91, 0.9], "none": [0.86, 0.85, 0.86], "bn-dropout": [0.91, 0.91, 0.92]}, 3)
    return Advice(
        "asked", "net.py:build", "<photos>", (4_200, 741, 12), rows,
        answers(comparison, {row.placement.value: row.measures for row in rows}),
        experiment(6, split="holdout", epochs=2), 2, 61, 3_480.0, True, "each convolution: Conv → ReLU",
        "conv = nn.Sequential()", {"dataset_sha256": "c0ffee"}, {"test/accuracy": 0.9},
    )  # fmt: skip


def test_the_lines_say_what_is_best_what_is_not_told_apart_and_what_is_worse(advice: Advice):
    said = lines(advice, 100)
    assert said[0] == "net.py:build on <photos> (4,200 training images, 12 classes), 61 runs of 2 epochs in 58m00s"
    assert said[1].split("  ")[1:3] == ["1", "BatchNorm, then Dropout (conv 0.1, head 0.35)"]
    assert said[1].endswith("the recommendation")
    assert said[2].endswith("not told apart from 1: 5 more seeds would")
    assert said[3].endswith("worse than 1 by 5.0 points [4.0, 6.0]")
    assert said[4].endswith("it diverged")
    assert any(line.startswith("Not examined: ") for line in said)


def test_the_page_is_whole_and_escapes_what_others_named(advice: Advice):
    page = html(advice, ranking_picture(advice), "sweeper advise --exp 6").decode()
    assert "<photos>" not in page
    assert "&lt;photos&gt;" in page
    for title in (
        "Recommendation",
        "Ranking",
        "Answers",
        "Why",
        "Curves",
        "What each placement was given, and what it measured",
        "How to reproduce it",
    ):
        assert f">{title}<" in page
    assert "each convolution: Conv → ReLU" in page
    assert "sweeper advise --exp 6" in page
    assert "c0ffee" in page


def test_the_json_has_the_ranking_and_no_number_that_is_none(advice: Advice):
    found = json.loads(json.dumps(advice.plain(), allow_nan=False))
    assert [row["placement"] for row in found["ranking"]] == ["bn-dropout", "bn", "none", "dropout"]
    assert "accuracy" not in found["ranking"][3]
    assert found["recommendation"]["placement"] == "bn-dropout"
    assert advice.ranking()["seeds"].tolist() == [5, 5, 5, 0]


@pytest.mark.parametrize(
    ("better", "worse", "words"),
    [
        ([0.9, 0.901, 0.9], [0.8, 0.801, 0.8], "BatchNorm gains 10.0 points ["),
        ([0.8, 0.801, 0.8], [0.9, 0.901, 0.9], "BatchNorm costs 10.0 points ["),
        ([0.9, 0.95, 0.85], [0.88, 0.93, 0.9], "BatchNorm shows no clear difference ["),
        ([0.9, 0.90001, 0.9], [0.9, 0.90001, 0.9], "BatchNorm makes no difference of 0.3 points or more ["),
    ],
)
def test_an_answer_says_what_the_interval_allows(better: list[float], worse: list[float], words: str):
    comparison = Comparison(2)
    comparison.look({"bn": better, "none": worse}, 3)
    (answer,) = answers(comparison, {})
    assert answer.sentence.startswith(words)


def test_dropout_in_the_head_is_safe_if_it_costs_less_than_what_matters():
    comparison = Comparison(2)
    comparison.look({"bn-head-dropout": [0.92, 0.9201, 0.9199], "bn": [0.909, 0.9091, 0.9089]}, 3)
    sentences = {answer.asks: answer.sentence for answer in answers(comparison, {})}
    assert "gains" in sentences["Is Dropout in the head alone safe?"]


def test_redundancy_is_the_gains_of_both_less_the_joint_gain():
    comparison = Comparison(4)
    values = {"none": 0.80, "bn": 0.90, "dropout": 0.88, "bn-dropout": 0.91}
    comparison.look({arm: [value, value + 0.0001, value - 0.0001] for arm, value in values.items()}, 3)
    sentences = [answer.sentence for answer in answers(comparison, {})]
    assert any(line.startswith("Together they gain 7.0 points less than the sum of both alone") for line in sentences)


def test_the_cost_is_of_the_times_of_an_epoch():
    comparison = Comparison(2)
    comparison.look({"bn": [0.9, 0.91, 0.9], "none": [0.86, 0.85, 0.86]}, 3)
    plain, normed = {"epoch_s": 2.0, "activations_mb": 40.0}, {"epoch_s": 2.5, "activations_mb": 60.0}
    assert answers(comparison, {"none": plain, "bn": normed})[-1].sentence == (
        "With BatchNorm an epoch takes 25 % more time than the 2 s without; the activations of a batch take 50 % more "
        "memory than the 40 MB."
    )


def test_the_reasons_are_of_the_x_ray_and_of_the_losses():
    shift, losses, calibration = reasons(MEASURES, {"loss": 0.5, "train_loss": 0.1, "ece": 0.05})
    assert "see 1.22 times the variance" in shift
    assert "+0.4 points" in shift
    assert losses == "Its train loss is 0.20, its validation loss 0.40; the plain network's are 0.10 and 0.50."
    assert calibration == "Its calibration error on the validation images is 3.1 % (plain: 5.0 %)."
    assert reasons({}, {}) == []


def test_a_seed_that_did_not_learn_does_not_press_the_picture_together(advice: Advice):
    best = advice.rows[0]
    rows = [best._replace(curves=[*best.curves, [0.1, 0.1]]), *advice.rows[1:]]
    page = html(replace(advice, rows=rows), b"\x89PNG\r\n\x1a\n" + bytes(24), "").decode()
    assert "1 seed below 85 % not shown" in page
    assert "seed below" not in html(advice, b"\x89PNG\r\n\x1a\n" + bytes(24), "").decode()
