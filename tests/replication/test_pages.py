"""The report of the reproduction: the article's figures and numbers beside ours, from the runs of the arms."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sweeper.replication.pages import charts
from sweeper.replication.pages import print as printing
from sweeper.replication.pages.charts import PUBLISHED, SPLITS, arms, common_ranges, curve, seed_values
from sweeper.replication.pages.page import article_page
from sweeper.replication.pages.print import article_print
from sweeper.replication.runs import ArmRun, complete
from sweeper.report.page import Section, text
from sweeper.tracking.base import RunInfo
from sweeper.tracking.journal import JournalTracker
from tests.replication.conftest import Command
from tests.replication.drawn import FULL, QUICK, written

NOWHERE = Path("nowhere")


def run(arm: str, seed: int = 0, accuracy: float = 0.9, state: str = "complete", **final: float) -> ArmRun:
    """A run of three epochs that ends at `accuracy`, 0.05 below its train accuracy."""
    epochs = [
        {"epoch": float(e), "val/accuracy": accuracy - 0.1 * (3 - e), "train/accuracy": accuracy + 0.05 - 0.1 * (3 - e),
         "val/loss": 1.0 / e, "train/loss": 0.9 / e, "gap/accuracy": 0.05, "gap/loss": 0.1 / e}
        for e in (1, 2, 3)
    ]  # fmt: skip
    metrics = {"final/val_accuracy": accuracy, "final/val_loss": 1 / 3, **final}
    return ArmRun(arm, seed, state, epochs, metrics, NOWHERE, "", None)


def eight(**accuracies: float) -> dict[str, list[ArmRun]]:
    """Two seeds of each experiment, 0.02 apart around `accuracies`."""
    return {
        f"exp{n}": [run(f"exp{n}", s, accuracies.get(f"exp{n}", 0.9) + (0.01 if s else -0.01)) for s in (0, 1)]
        for n in PUBLISHED
    }


def body(runs: dict[str, list[ArmRun]], *ledger: Section) -> str:
    whole = article_page(runs, QUICK, ledger).decode()
    return whole[: whole.rindex("</main>")]


def titles(page: str) -> list[str]:
    known = ("Summary", "Against the article's numbers", "Verdicts", "Figures 4 to 11", "All arms", "X-ray")
    return [title for title in known if f">{title.replace(chr(39), '&#39;')}</a>" in page]


# --- tuples ---------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_of_its_seeds_within_their_range() -> None:
    found = curve([run("exp1", 0, 0.8), run("exp1", 1, 0.9)], "val/accuracy")
    assert found.epochs == [1, 2, 3]
    assert (found.mean[-1], found.low[-1], found.high[-1]) == (pytest.approx(0.85), 0.8, 0.9)


def test_all_figures_share_axes_that_hold_every_curve() -> None:
    runs = [[run("exp1", 0, 0.7)], [run("exp2", 0, 0.95), run("exp2", 1, 0.1, state="diverged")]]
    ranges = common_ranges(runs)
    assert ranges.accuracy[0] < 0.5 < 1.0 < ranges.accuracy[1]
    assert ranges.accuracy[0] > 0.4  # diverged runs have no part in it
    assert ranges.epochs[0] < 1 < 3 < ranges.epochs[1]
    figures = [charts.figure(complete(of_arm), ranges) for of_arm in runs]
    assert figures[0].layout.yaxis.range == figures[1].layout.yaxis.range
    assert figures[0].layout.yaxis2.range == figures[1].layout.yaxis2.range
    assert figures[0].layout.xaxis.range == figures[1].layout.xaxis2.range


def test_an_arm_is_a_dot_for_each_complete_seed_and_a_bar_at_their_mean() -> None:
    runs = {"exp6": [run("exp6", 0, 0.8), run("exp6", 1, 0.1, state="diverged"), run("exp6", 2, 0.9)]}
    values = {"exp6": seed_values(runs["exp6"], "final/val_accuracy")}
    dots, bars = arms(runs, values, "accuracy", shares=True).data
    assert (list(dots.x), list(dots.y)) == ([0.8, 0.9], ["exp6", "exp6"])
    assert dots.text[1] == "exp6, seed 2: 90.00%"
    assert list(bars.x) == [pytest.approx(0.85)]
    lacking = [run("exp6", 0, **{"xray/spikes": 2.0}), run("exp6", 1, **{"xray/spikes": math.nan})]
    assert seed_values(lacking, "xray/spikes") == seed_values([*lacking[:1], run("exp6")], "xray/spikes")
    assert seed_values(lacking, "xray/spikes") == []


# --- for print ------------------------------------------------------------------------------------


def drawn(monkeypatch: pytest.MonkeyPatch, runs: dict[str, list[ArmRun]]) -> Figure:
    """The figure that `article_print` draws, before it becomes an image."""
    figures: list[Figure] = []
    monkeypatch.setattr(printing, "as_png", lambda figure: figures.append(figure) or b"")
    article_print(runs, "quick")
    return figures[0]


def test_the_eight_figures_are_printed_on_common_axes_as_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = eight(exp3=0.8)
    panels = drawn(monkeypatch, runs).axes
    ranges = common_ranges(list(runs.values()))
    assert len(panels) == 16
    heads = [panel.get_title(loc="left") for panel in panels]
    assert [head.split("\n")[0] for head in heads if head] == [f"Figure {n}: experiment {n - 3}" for n in range(4, 12)]
    assert "large CNN, BatchNorm,\nDropout and augmentation" in heads[11]
    for place, panel in enumerate(panels):
        assert panel.get_xlim() == ranges.epochs
        assert panel.get_ylim() == (ranges.accuracy if place // 4 % 2 == 0 else ranges.loss)
        assert len(panel.lines) == 2
    accuracy, loss = panels[2], panels[6]  # of experiment 3
    for panel, metric in ((accuracy, "accuracy"), (loss, "loss")):
        expected = [curve(runs["exp3"], f"{split}/{metric}").mean for split in SPLITS]
        assert [list(line.get_ydata()) for line in panel.lines] == expected
    assert [note.get_text() for note in accuracy.texts] == ["80.00%"]


def test_a_figure_without_a_run_is_printed_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = eight()
    del runs["exp5"]
    runs["exp8"] = [run("exp8", state="diverged")]
    panels = drawn(monkeypatch, runs).axes
    empty = [place for place, panel in enumerate(panels) if not panel.lines]
    assert empty == [8, 11, 12, 15]
    assert {note.get_text() for place in empty for note in panels[place].texts} == {"not trained yet"}


@pytest.mark.parametrize("runs", [eight(), {"ic": [run("ic")]}])
def test_the_print_is_the_same_image_each_time(runs: dict[str, list[ArmRun]]) -> None:
    image = article_print(runs, "quick")
    assert image == article_print(runs, "quick")
    width, height = struct.unpack(">II", image[16:24])
    assert (width, height) == (1500, 675 if "ic" in runs else 1650)


# --- the page -------------------------------------------------------------------------------------


def test_ours_stand_beside_the_published_numbers() -> None:
    page = body(eight(exp4=0.91, exp5=0.92, exp6=0.925, exp8=0.94))
    assert "its mean is +0.0050 against experiment 5, the better of 4 and 5" in page
    row = page[page.index("8: large CNN") :]
    row = row[: row.index("</tr>")]
    assert [words in row for words in (">0.948<", ">94.00%<", ">1.41<")] == [True] * 3  # 1.41: 0.01 * sqrt 2, in points


def test_the_gain_is_not_said_where_an_experiment_lacks() -> None:
    runs = eight()
    del runs["exp5"]
    page = body(runs)
    assert "Not all three have runs here" in page
    assert "Figure 8: experiment 5" not in page


@pytest.mark.parametrize(
    "runs",
    [
        {"exp6": [run("exp6")]},
        {"ic": [run("ic")]},
        {"bn-lr-3e-2": [run("bn-lr-3e-2", state="diverged")]},
        {"exp6": [run("exp6", state="diverged")], "ic": [run("ic")]},
    ],
)
def test_a_few_runs_have_a_page_all_the_same(runs: dict[str, list[ArmRun]]) -> None:
    assert "All arms" in titles(body(runs))


def test_the_ledger_follows_the_numbers_and_the_eight_figures_the_ledger() -> None:
    page = body(eight(), Section("Verdicts", text("Claim 10 is inconclusive.")))
    known = ["Summary", "Against the article's numbers", "Verdicts", "Figures 4 to 11", "All arms"]
    assert titles(page) == known
    assert [f"Figure {n}: experiment {n - 3}</h3>" in page for n in range(4, 12)] == [True] * 8
    assert page.count("data-chart") == 9
    assert "our declared instantiation" in page
    assert "The article trained on all 60,000 images.</p>" in page
    assert page.index("Claim 10 is inconclusive.") < page.index("Figure 4: experiment 1")


def test_the_xray_is_shown_where_the_runs_have_one() -> None:
    shift = {"xray/variance_shift": 1.25, "xray/spikes": 2.0}
    page = body({"exp6": [run("exp6", **shift)], "exp2": [run("exp2", **{"xray/spikes": 4.0})], "exp3": [run("exp3")]})
    assert titles(page)[-1] == "X-ray"
    table = page[page.index('id="x-ray"') :]
    assert ">1.2500<" in table
    assert table.count('scope="row"') == 2  # experiment 3 has no X-ray


def test_the_page_claims_no_images_that_were_not_seen() -> None:
    part = run("exp8")._replace(all_images=False)
    pages = [article_page({"exp8": [each]}, FULL).decode() for each in (part, run("exp8"))]
    assert ["these runs on a part" in page for page in pages] == [True, False]
    assert not any("all 60,000 training images" in page or "10,000 test images" in page for page in pages)


def journals(root: Path, *recorded: tuple[str, dict[str, str], int]) -> dict[str, list[ArmRun]]:
    """Runs of experiment 6 whose journals have these seeds, tags and numbers of training images."""
    runs = []
    for name, tags, images in recorded:
        dataset = {
            "name": "",
            "sha256": "0" * 64,
            "source": "",
            "profile": {"train_images": images, "val_images": images // 6},
        }
        JournalTracker(root).start(RunInfo("key", "run", {}, tags, "", name, dataset=dataset))
        runs.append(run("exp6", len(runs))._replace(folder=root / name))
    return {"exp6": runs}


def test_all_machines_that_had_a_part_are_named(tmp_path: Path) -> None:
    tags = [{"sweeper.hardware": name, "mlflow.source.git.commit": f"{name}-" + 20 * "0"} for name in ("Xeon", "M4")]
    page = body(journals(tmp_path, ("run-0", tags[0], 7_000), ("run-1", tags[1], 60_000)))
    assert "M4 / Xeon" in page
    assert "M4-000000000 / Xeon-0000000" in page
    assert "trained on 60,000, judged on 10,000 / trained on 7,000, judged on 1,166" in page


def test_the_words_of_a_journal_are_escaped(tmp_path: Path) -> None:
    canary = "<script>alert('canary')</script>"
    tags = {f"sweeper.{name}": canary for name in ("dataset", "hardware", "threads", "versions")}
    page = body(journals(tmp_path, ("run", tags, 7_000)))
    assert canary not in page
    assert page.count("&lt;script&gt;alert") == 4


def test_the_command_writes_the_report_of_the_journals_and_the_print_beside_it(
    tmp_path: Path, sweeper: Command
) -> None:
    written(tmp_path, {"exp6": [run("exp6", 3, 0.875)]}, ["exp6"])
    code, out, err = sweeper("report", "--replication", "--output", "mine.html", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["figures"] == str(tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "mine.html").read_text()
    assert len(page.encode()) == result["bytes"]
    assert (">87.50%<" in page, "a machine" in page, "1 run of 1 arm." in page) == (True, True, True)
