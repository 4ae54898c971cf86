"""The report of a sweep: the rows read from the stores, the tables, and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.files import write_whole
from sweeper.core.intervals import with_interval
from sweeper.report.sweep.page import MOST_CLASSES, draw, sweep_page
from sweeper.report.sweep.rows import Champion, Sweep, SweptTrial, read_sweep
from sweeper.report.sweep.tables import MOST_ROWS, dimension, lead, leaderboard, trials_csv
from sweeper.study.evidence import Standing
from sweeper.study.rows import StudyRecord, TrialRow
from sweeper.tracking.base import FINISHED, RunInfo
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import ARTIFACTS
from tests.support.swept import CHAMPION, IMPORTANCES, searched, sweep, trial

CANARY = "<script>alert('canary')</script>"
UID = "0123"


def html(found: Sweep) -> str:
    return sweep_page(found, draw(found)).decode()


def body(found: Sweep) -> str:
    """The page without its scripts."""
    whole = html(found)
    return whole[: whole.rindex("</main>")]


def test_the_confusion_of_many_classes_is_a_table_alone() -> None:
    def drawn(classes: int) -> Champion:
        names = [f"class {k}" for k in range(classes)]
        return CHAMPION._replace(classes=names, confusion=np.eye(classes, dtype=int).tolist())

    few, many = (body(sweep(*searched(), champion=drawn(classes))) for classes in (MOST_CLASSES, MOST_CLASSES + 1))
    assert "only errors are coloured" in few
    assert "only errors are coloured" not in many
    assert f">class {MOST_CLASSES}<" in many


# --- reading --------------------------------------------------------------------------------------


def row(number: int, **fields: Any) -> TrialRow:
    made = TrialRow(number, "complete", 0.9, 0.3, {"placement": "bn"}, 2, 7.0, "", accuracy=0.9)
    return made._replace(**fields)


def record(*rows: TrialRow, curves: Mapping[int, Mapping[int, float]] | None = None) -> StudyRecord:
    return StudyRecord("demo", UID, {"model": "small"}, list(rows), curves or {}, IMPORTANCES, None, None)


def write_run(
    root: Path, folder: str, key: str, tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    profile = {"train_images": 60, "val_images": 10, "folds": 0}
    dataset = {"name": "sample", "sha256": "0" * 64, "source": "/data", "profile": profile}
    info = RunInfo(key, "run", {}, {"sweeper.versions": "torch 9"}, "", f"demo/{folder}", dataset)
    log = JournalTracker(root).start(info)
    for epoch in (1, 2):
        log.epoch(epoch, {"val/accuracy": 0.4 * epoch, "val/loss": 1 / epoch, "time/epoch_s": 1.5})
    log.end(FINISHED, metrics or {"test/accuracy": 0.7}, tags or {})


def test_the_journal_adds_losses_times_and_circumstances(tmp_path: Path) -> None:
    write_run(tmp_path, "0000", f"{UID}/0")
    found = read_sweep(record(row(0, loss=None)), tmp_path)
    (only,) = found.trials
    assert [epoch["val/loss"] for epoch in only.epochs] == [1, 0.5]
    assert (only.seconds, only.loss) == (3.0, 0.5)
    assert (found.tags["sweeper.versions"], found.images) == ("torch 9", {"train_images": 60, "val_images": 10})


def test_a_study_without_a_journal_keeps_what_was_reported(tmp_path: Path) -> None:
    found = read_sweep(record(row(0), curves={0: {2: 0.9, 1: 0.8}}), tmp_path)
    (only,) = found.trials
    assert only.epochs == [{"epoch": 1.0, "val/accuracy": 0.8}, {"epoch": 2.0, "val/accuracy": 0.9}]
    assert only.seconds == 7.0
    assert found.champion is None
    assert "Validation loss" not in html(found)


def test_runs_of_an_earlier_study_of_the_name_are_not_taken(tmp_path: Path) -> None:
    write_run(tmp_path, "0000", "another/0")
    write_run(tmp_path, "champion-0000", "another/champion/0")
    found = read_sweep(record(row(0)), tmp_path)
    assert (found.trials[0].epochs, found.tags, found.champion) == ([], {}, None)


def test_copies_are_left_out_and_counted(tmp_path: Path) -> None:
    """0.1.0 gave a trial that repeated an earlier one the result of that one."""
    found = read_sweep(record(row(0), row(1, copy_of=0), row(2, params={"placement": "ic"})), tmp_path)
    assert [trial.number for trial in found.trials] == [0, 2]
    assert found.copies == 1
    assert lead(found).startswith("2 trials: 2 complete. Left out: 1 duplicate, which had the result of an earlier")


def test_the_means_of_finalists_are_read(tmp_path: Path) -> None:
    tags = {"sweeper.state": "complete"}
    for seed, accuracy in enumerate((0.7, 0.8, 0.9), 1):
        write_run(tmp_path, f"finalist-0003-{seed}", f"{UID}/finalist/3/{seed}", tags, {"final/val_accuracy": accuracy})
    write_run(tmp_path, "finalist-0004-1", f"{UID}/finalist/4/1", tags, {"final/val_accuracy": 0.75})
    write_run(tmp_path, "finalist-0005-1", "another/finalist/5/1", tags, {"final/val_accuracy": 1.0})
    first, second = read_sweep(record(row(3), row(4)), tmp_path).finalists
    assert (first.key, first.n, second.key, second.n) == ("3", 3, "4", 1)
    assert first.mean == pytest.approx(0.8)
    assert first.high - first.low == pytest.approx(2 * 4.302653 * 0.1 / math.sqrt(3))  # Student's t of 2 degrees
    assert second.high - second.low == pytest.approx(2 * 4.302653 * 0.1)


def test_the_champion_is_read_with_its_confusion_and_errors(tmp_path: Path) -> None:
    write_run(tmp_path, "champion-0000", f"{UID}/champion/0")
    files = tmp_path / "demo/champion-0000" / ARTIFACTS / "evaluation"
    write_whole(files / "confusion.csv", b"true class,Coat,Shirt,accuracy\nCoat,7,3,0.7\nShirt,1,9,0.9\n")
    write_whole(files / "errors.png", b"png")
    champion = read_sweep(record(row(0)), tmp_path).champion
    metrics = {"test/accuracy": 0.7, "test/accuracy_low": 0.396778, "test/accuracy_high": 0.892209}  # 10 images
    assert champion == Champion(0, pytest.approx(metrics, abs=1e-6), ["Coat", "Shirt"], [[7, 3], [1, 9]], b"png")


def test_a_champion_that_was_not_evaluated_is_none(tmp_path: Path) -> None:
    JournalTracker(tmp_path).start(RunInfo(f"{UID}/champion/0", "run", {}, {}, "", "demo/champion-0000"))
    assert read_sweep(record(row(0)), tmp_path).champion is None


# --- order ----------------------------------------------------------------------------------------


def test_trials_are_ranked_as_the_study_decides() -> None:
    found = sweep(trial(0), trial(1, 0.95), trial(2, loss=0.2), trial(3, state="pruned"), trial(4, math.nan), trial(5))
    assert [t.number for t in found.ranked()] == [1, 2, 0, 5]


def test_a_configuration_is_judged_by_the_mean_of_its_seeds() -> None:
    other = {"placement": "ic"}
    found = sweep(trial(4, 0.7), trial(2, 0.8, params=other), trial(3, 0.9), trial(1, 0.84, params=other))
    best, second = found.configurations()
    assert [t.number for t in best.trials] == [1, 2]
    assert [t.number for t in second.trials] == [3, 4]
    assert (best.standing.mean, best.standing.n) == (pytest.approx(0.82), 2)


# --- words and tables -----------------------------------------------------------------------------


def test_the_lead_counts_the_trials_and_names_the_best() -> None:
    found = sweep(trial(0), trial(1, 0.912), trial(2, state="pruned"), trial(3, None, state="failed"))
    assert lead(found) == (
        "4 trials: 2 complete, 1 pruned, 1 failed. The best is trial 0 with 90.60% [82.98, 98.22], 2 seeds: "
        "placement bn, batch_size 64."
    )
    found = found._replace(finalists=[Standing("0", 3, 0.91, 0.9, 0.8987, 0.9013)])
    assert "The best is trial 0 with 90.00% [89.87, 90.13], the mean of 3 fresh seeds: placement bn" in lead(found)
    assert lead(sweep()) == "0 trials. No trial is complete yet."


def test_the_leaderboard_says_how_far_accuracies_can_be_told_apart() -> None:
    trials = [trial(i, 0.9 - 0.013 * i, params={"batch_size": i}) for i in range(4)]
    words = str(leaderboard(sweep(*trials, images={"val_images": 1000})))
    assert "90.00% on 1,000 validation images has a 95% interval from 87.98% to 91.71%" in words
    assert "2 other trials are within 2.63 points of the best" in words  # 1.96 sqrt(2 * 0.9 * 0.1 / 1000)


def test_the_accuracy_of_cross_validation_is_one_of_the_images_of_all_folds() -> None:
    found = sweep(trial(0), settings={"folds": 5}, images={"val_images": 1000})
    assert "90.00% on 5,000 validation images" in str(leaderboard(found))


def test_the_champions_accuracy_is_shown_with_its_interval() -> None:
    images = with_interval(CHAMPION.metrics, 1000)
    page = body(sweep(*searched(), champion=CHAMPION._replace(metrics=images)))
    assert page.count("; 95% interval 77.41% to 82.36%") == 2  # in the summary and in the champion's section
    assert "once; 95% interval" not in body(sweep(*searched(), champion=CHAMPION))


def test_the_leaderboard_has_a_row_for_each_configuration() -> None:
    words = str(leaderboard(sweep(trial(0), trial(1, seconds=7.0), trial(2, params={"placement": "ic"}))))
    assert words.count("<tr>") == 3
    assert ">6.0<" in words  # the mean of 5 and 7 seconds


def test_no_more_than_a_thousand_trials_are_in_the_table() -> None:
    trials = [trial(i, i / 2000) for i in range(MOST_ROWS + 5)]
    page = body(sweep(*trials))
    table = page[page.index("Every trial, by number") :]
    assert f"The best 1,000 of {len(trials):,} are shown" in table
    assert table.count('scope="row"') == MOST_ROWS
    assert 'data-order="4"' not in table[: table.index('scope="row"') + 40]  # the five worst are left out


def test_the_file_of_trials_holds_every_value_as_it_is() -> None:
    lines = trials_csv(sweep(trial(0, 0.123456789), trial(1, params={"lr": 1e-3}, reason="a, b"))).decode().splitlines()
    assert lines == [
        "trial,state,val_accuracy,val_loss,epochs,seconds,batch_size,lr,placement,reason",
        "0,complete,0.123456789,0.3,3,5.0,64,,bn,",
        '1,complete,0.9,0.3,3,5.0,,0.001,,"a, b"',
    ]


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (["bn", "ic"], "bn, ic"),
        ({"low": 0.1, "high": 0.4, "log": False}, "0.1 to 0.4"),
        ({"low": 1e-4, "high": 0.1, "log": True}, "0.0001 to 0.1, logarithmic"),
        ("small", "small"),
    ],
)
def test_a_dimension_is_said_in_words(described: Any, words: str) -> None:
    assert dimension(described) == words


# --- the page -------------------------------------------------------------------------------------


def test_a_full_sweep_has_every_section() -> None:
    trials = [*searched(30), trial(30, 0.3, state="pruned", reason="why"), trial(31, None, state="failed", epochs=[])]
    page = body(sweep(*trials, importances=IMPORTANCES, champion=CHAMPION))
    titles = [
        "Summary", "Leaderboard", "Accuracy, loss and time", "Curves", "History", "Importance", "Placements",
        "Parallel coordinates", "Placement and rate", "Two parameters", "Pruned and failed", "Champion", "All trials",
    ]  # fmt: skip
    assert [line for line in titles if f">{line}</a>" in page] == titles
    assert page.count("data-chart") == 9
    assert page.count('src="data:image/png') == 3


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(0, None, state="running", epochs=[])],
        [trial(0, None, state="failed", epochs=[], reason="out of memory")],
        [trial(0, 0.3, state="pruned")],
        [trial(0)],
        [trial(0, params={})],
        [trial(0, seconds=None, loss=None, epochs=[])],
        [trial(0), trial(1, math.nan)],
        [trial(0), trial(1, None, state="running", epochs=[], params={"lr": 0.1, "model.width": 16})],
        [trial(0), trial(1, 0.3, state="pruned", params={"model": "large"})],
    ],
)
def test_a_sweep_of_little_has_a_page_all_the_same(trials: list[SweptTrial]) -> None:
    assert "All trials" in body(sweep(*trials))


def test_what_others_wrote_is_escaped() -> None:
    found = sweep(
        trial(0),
        trial(1, state="pruned", reason=CANARY),
        trial(2, None, state="failed", epochs=[], reason=CANARY),
        settings={"model": CANARY, "dataset_sha256": CANARY, "space.lr": [CANARY]},
        tags={f"sweeper.{name}": CANARY for name in ("dataset", "hardware", "threads", "versions")},
    )
    page = html(found)
    assert CANARY not in page
    assert page.count("&lt;script&gt;alert(&#39;canary&#39;)&lt;/script&gt;") >= 8
