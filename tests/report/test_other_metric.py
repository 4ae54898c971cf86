"""The report of a search for the loss or the calibration error: it is drawn in the metric, beside the accuracy."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.metric import ACCURACY, ECE, LOSS
from sweeper.report.sweep.charts import curves, describe
from sweeper.report.sweep.front import front
from sweeper.report.sweep.landscape import contour, heat_map, rate_map
from sweeper.report.sweep.page import draw, sweep_page
from sweeper.report.sweep.parallel import metric_axis, parallel
from sweeper.report.sweep.rows import Sweep, SweptTrial, read_sweep
from sweeper.report.sweep.tables import all_trials, finalists, lead, leaderboard, summary, trials_csv
from sweeper.study.evidence import Standing
from sweeper.study.rows import StudyRecord, TrialRow
from sweeper.tracking.base import FINISHED, RunInfo
from sweeper.tracking.journal import JournalTracker
from tests.support.scored import scored
from tests.support.swept import CHAMPION, IMPORTANCES, searched, sweep, trial

SETTINGS = {"model": "small", "dataset_sha256": "ab" * 32}
UID = "0123"


def of_loss(number: int, loss: float, accuracy: float, **fields: Any) -> SweptTrial:
    return trial(number, loss, loss=loss, accuracy=accuracy, **fields)


def for_loss(*trials: SweptTrial, **fields: Any) -> Sweep:
    return sweep(*trials, settings=SETTINGS | {"direction": LOSS.goal}, **fields)


def body(found: Sweep) -> str:
    """The page without its scripts."""
    whole = sweep_page(found, draw(found)).decode()
    return whole[: whole.rindex("</main>")]


ICY = {"placement": "ic", "batch_size": 64}
TWO = (of_loss(0, 0.5, 0.95), of_loss(1, 0.4, 0.9, params=ICY))


# --- reading --------------------------------------------------------------------------------------


def test_what_was_reported_is_of_the_metric_where_there_is_no_journal(tmp_path: Path) -> None:
    rows = [
        TrialRow(0, "complete", 0.4, 0.4, {}, 1, 1.0, "", accuracy=0.9),
        TrialRow(1, "pruned", 0.6, None, {}, 1, 1.0, ""),
    ]
    curve = {0: {1: 0.4}, 1: {1: 0.6}}
    record = StudyRecord("demo", UID, {"direction": LOSS.goal}, rows, curve, [], None, None)
    first, second = read_sweep(record, tmp_path).trials
    assert first.epochs == [{"epoch": 1.0, "val/loss": 0.4}]
    assert (first.value, first.loss, first.accuracy) == (0.4, 0.4, 0.9)
    assert (second.value, second.loss, second.accuracy) == (0.6, 0.6, None)


def test_finalists_are_ranked_by_the_metric_and_keep_their_accuracies(tmp_path: Path) -> None:
    values = {3: (scored(0.9, 0.5), scored(0.92, 0.52)), 4: (scored(0.8, 0.3), scored(0.82, 0.32))}
    for of, runs in values.items():
        for seed, metrics in enumerate(runs, 1):
            info = RunInfo(f"{UID}/finalist/{of}/{seed}", "", {}, {}, "", f"demo/finalist-{of:04d}-{seed}")
            JournalTracker(tmp_path).start(info).end(FINISHED, metrics, {"sweeper.state": "complete"})
    record = StudyRecord("demo", UID, {"direction": LOSS.goal}, [], {}, [], None, None)
    found = read_sweep(record, tmp_path)
    assert [each.key for each in found.finalists] == ["4", "3"]
    assert found.finalist_accuracies == {"3": pytest.approx(0.91), "4": pytest.approx(0.81)}


# --- order, words and tables ----------------------------------------------------------------------


def test_the_lowest_loss_is_the_best() -> None:
    found = for_loss(*TWO)
    assert [t.number for t in found.ranked()] == [1, 0]
    assert [c.trials[0].number for c in found.configurations()] == [1, 0]
    assert "The best is trial 1 with validation loss 0.4000: placement ic" in lead(found)
    assert [c.trials[0].number for c in sweep(*TWO).configurations()] == [0, 1]


def test_the_summary_names_the_metric_and_shows_the_accuracies() -> None:
    best = Standing("1", 3, 0.4, 0.41, -0.01, 1.05)
    found = for_loss(*TWO, finalists=[best], finalist_accuracies={"1": 0.91}, champion=CHAMPION)
    words = str(summary(found))
    assert "best validation loss; the mean of 3 fresh seeds; 95% interval 0.0000 to 1.0500" in words
    for number in ("0.4100", "91.00%", "80.00%", "0.6000"):  # its value and accuracy, and those of the test images
        assert f">{number}<" in words
    table = str(finalists(found))
    assert "[0.0000, 1.0500]" in table
    assert table.index("Val loss") < table.index("Val accuracy")
    assert ">91.00%<" in table


def test_the_leaderboard_is_in_the_metric_with_the_accuracy_beside_it() -> None:
    words = str(leaderboard(for_loss(*TWO, images={"val_images": 1000})))
    assert words.index("Val loss") < words.index("Val accuracy")
    assert words.index(">0.4000<") < words.index(">0.5000<")
    assert ">90.00%<" in words
    assert "the test loss judges it" in words
    assert "validation images has a 95% interval" not in words  # which is one of shares


def test_files_have_accuracy_and_loss_and_any_other_metric_behind_them() -> None:
    (row,) = csv.DictReader(trials_csv(for_loss(TWO[0])).decode().splitlines())
    assert (row["val_accuracy"], row["val_loss"]) == ("0.95", "0.5")
    found = sweep(trial(0, 0.02, accuracy=0.9), settings=SETTINGS | {"direction": ECE.goal})
    (row,) = csv.DictReader(trials_csv(found).decode().splitlines())
    assert list(row)[2:5] == ["val_accuracy", "val_loss", "val_ece"]
    assert (row["val_accuracy"], row["val_loss"], row["val_ece"]) == ("0.9", "0.3", "0.02")
    assert ">0.0200<" in str(all_trials(found))


def test_the_front_stays_one_of_accuracy_loss_and_time() -> None:
    assert [c.trials[0].number for c in front(for_loss(*TWO).by_accuracy())] == [0, 1]
    assert [c.standing.shrunken for c in for_loss(*TWO).by_accuracy()] == [0.95, 0.9]


# --- pictures -------------------------------------------------------------------------------------


def test_the_best_loss_stands_at_the_head_of_its_axis() -> None:
    axis = metric_axis([0.5, 0.4, 0.45, 9.0, 0.42, 0.44], LOSS)
    assert axis.heights == pytest.approx([0.0, 1.0, 0.5, 0.0, 0.8, 0.6])
    assert (axis.name, axis.ticks) == ("loss", {0.0: "0.5000", 1.0: "0.4000"})


def test_better_is_darker_in_every_map() -> None:
    trials = searched(30)
    cells = rate_map(trials, "conv_dropout")
    assert cells is not None
    for metric, is_reversed in ((ACCURACY, False), (LOSS, True)):
        assert heat_map(cells, metric, "conv_dropout", (0.1, 0.9)).data[0].reversescale is is_reversed
        surface, dots = contour(trials, metric, ("batch_size", "head_dropout")).data
        assert surface.reversescale is is_reversed
        best = max(trials, key=lambda t: (t.params.get("head_dropout") is not None, -metric.cost(t.score)))
        assert dots.text[-1] == describe(best, metric)


def test_the_pointer_shows_the_metric_first() -> None:
    assert describe(trial(0, 0.9), ACCURACY).splitlines()[0].startswith("<b>trial 0</b>, complete<br>90.00%, loss 0.3")
    assert "<br>loss 0.4000, 90.00%<br>" in describe(TWO[1], LOSS)
    assert "<br>ECE 0.0200, 90.00%, loss 0.3000<br>" in describe(trial(0, 0.02, accuracy=0.9), ECE)


def test_the_curve_of_the_best_is_that_of_the_lowest_loss() -> None:
    figure = curves(for_loss(*TWO).ranked(), [], LOSS)
    assert figure.data[-1].name == "best, 1"
    assert figure.layout.yaxis.title.text == "validation loss (nats)"
    assert list(parallel(for_loss(*TWO).ranked(), LOSS).layout.xaxis.ticktext)[-1] == "loss"


@pytest.mark.parametrize("metric", [LOSS, ECE])
def test_the_page_is_whole(metric: Any) -> None:
    trials = [t._replace(value=1 - t.score) for t in searched(30)]
    others = [trial(30, 9.0, state="pruned", reason="why"), trial(31, math.nan)]
    found = sweep(*trials, *others, settings=SETTINGS | {"direction": metric.goal}, importances=IMPORTANCES,
                  champion=CHAMPION)  # fmt: skip
    page = body(found)
    for words in ("by trial", "by placement"):
        assert f"Validation {metric.noun} {words}" in page
    assert f"best {metric.words}" in page
    assert "Accuracy, loss and time" in page
    assert page.count("data-chart") == 9
