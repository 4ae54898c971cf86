"""The runs of the reproduction, read from journals of every condition."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.replication.runs import ArmRun, ArmSummary, Machine, each, images, read_runs, summarise, table
from sweeper.tracking.base import FAILED, FINISHED, KILLED, RunInfo
from sweeper.tracking.journal import JournalLog
from tests.replication.drawn import FULL, QUICK

FINAL = {"final/val_accuracy": 0.75, "final/val_loss": 0.5, "best/epoch": 2.0}


def metrics(seconds: float = 2.0) -> dict[str, float]:
    return {"val/loss": 0.5, "val/accuracy": 0.75, "time/epoch_s": seconds}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the journal of one run of the protocol quick; its folder."""

    def run(
        arm: str = "exp6", seed: int = 0, status: str = FINISHED, state: str = "complete", params: Any = None,
        final: dict[str, float] = FINAL, threads: str = "2", epochs: Sequence[int] = (2, 1),
    ) -> Path:  # fmt: skip
        config = QUICK.config(arm, seed)
        folder = f"{QUICK.folder}/{arm}/seed-{seed}"
        tags = {"sweeper.threads": threads, "sweeper.hardware": "Xeon"}
        info = RunInfo(f"x/{config.key}", "", params or config.to_params(), tags, "", folder)
        log = JournalLog(tmp_path / folder, info)
        for epoch in epochs:
            log.epoch(epoch, metrics(2.0 * epoch))
        if status:
            hashes = {"sweeper.history_sha256": "abc"} if state == "complete" else {}
            log.end(status, final, {"sweeper.state": state, **hashes})
        return log.folder

    return run


def test_a_finished_run_is_read_as_it_was_recorded(write: Callable[..., Path], tmp_path: Path):
    folder = write(seed=3)
    epochs = [{"epoch": 1, **metrics(2.0)}, {"epoch": 2, **metrics(4.0)}]
    machines = frozenset({Machine("2", "Xeon")})
    run = ArmRun("exp6", 3, "complete", epochs, FINAL, folder, "abc", None, all_images=False, machines=machines)
    assert read_runs(tmp_path, QUICK) == {"exp6": [run]}


def test_runs_are_in_the_order_of_their_seeds_and_arms_in_theirs(write: Callable[..., Path], tmp_path: Path):
    for arm, seed in (("exp7", 0), ("exp6", 10), ("exp6", 2), ("exp4", 1)):
        write(arm, seed)
    runs = read_runs(tmp_path, QUICK)
    assert [(arm, [run.seed for run in of_arm]) for arm, of_arm in runs.items()] == [
        ("exp4", [1]), ("exp6", [2, 10]), ("exp7", [0]),
    ]  # fmt: skip
    assert read_runs(tmp_path, FULL) == {}
    assert read_runs(tmp_path / "nowhere", QUICK) == {}


def test_a_run_that_diverged_is_one_and_has_no_hash(write: Callable[..., Path], tmp_path: Path):
    write(state="pruned", final={})
    (run,) = read_runs(tmp_path, QUICK)["exp6"]
    assert (run.state, run.history_sha256, run.final) == ("diverged", "", {})


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (None, ""),
        (FAILED, "failed"),
        (FAILED, "lost"),
        (KILLED, "killed"),
        (FAILED, "complete"),
        (FINISHED, "unheard-of"),
    ],
)
def test_a_run_that_has_not_finished_is_left_out(
    write: Callable[..., Path], tmp_path: Path, status: str | None, state: str
):
    write(status=status, state=state)
    assert read_runs(tmp_path, QUICK) == {}


def test_a_run_that_was_begun_again_has_not_finished(write: Callable[..., Path], tmp_path: Path):
    write()
    write(status=None)
    assert read_runs(tmp_path, QUICK) == {}


def test_a_torn_last_line_is_as_if_it_were_not_there(write: Callable[..., Path], tmp_path: Path):
    folder, other = write(seed=0), write(seed=1)
    for path in (folder, other):
        content = (path / "events.jsonl").read_bytes()
        (path / "events.jsonl").write_bytes(content[:-20] if path == folder else content + b'{"event": "sta')
    assert [run.seed for run in read_runs(tmp_path, QUICK)["exp6"]] == [1]


@pytest.mark.parametrize("content", [b"", b"\n", b"not JSON\n", b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"event": "end"}\n'])
def test_a_file_that_is_no_journal_is_left_out(write: Callable[..., Path], tmp_path: Path, content: bytes):
    folder = write(seed=0)
    write(seed=1)
    (folder / "events.jsonl").write_bytes(content)
    assert [run.seed for run in read_runs(tmp_path, QUICK)["exp6"]] == [1]


def test_other_folders_are_left_out(write: Callable[..., Path], tmp_path: Path):
    folder = write(seed=0)
    for name in ("seed-0.1234", "seed-x", "seed-", "copy", "Seed-0"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "events.jsonl").write_bytes((folder / "events.jsonl").read_bytes())
    (folder.parent / "seed-7").touch()
    (folder.parent.parent / "exp9").mkdir()
    assert [run.seed for run in read_runs(tmp_path, QUICK)["exp6"]] == [0]


def test_a_run_of_another_recipe_is_left_out(write: Callable[..., Path], tmp_path: Path):
    params = QUICK.config("exp6", 0).to_params()
    write(seed=0, params=params | {"lr": "0.002"})
    write(seed=1, params=params)  # of another seed
    write(seed=2, params=params | {"seed": "2", "lr": "no number"})
    write(seed=3, params={"seed": "3"})
    machine = {"dataset": "sample", "train_images": "0", "precision": "bf16", "device": "cuda:1"}
    write(seed=4, params=params | {"seed": "4"} | machine)  # another machine is no other recipe
    assert [run.seed for run in read_runs(tmp_path, QUICK)["exp6"]] == [4]


@pytest.mark.parametrize(
    ("dataset", "train_images", "everything"),
    [("fashion-mnist", "0", True), ("fashion-mnist", "12000", False), ("sample", "0", False)],
)
def test_a_run_knows_whether_it_has_seen_all_images(
    dataset: str, train_images: str, everything: bool, write: Callable[..., Path], tmp_path: Path
):
    params = QUICK.config("exp6", 0).to_params()
    write(params=params | {"dataset": dataset, "train_images": train_images})
    (run,) = read_runs(tmp_path, QUICK)["exp6"]
    assert run.all_images == everything


def test_a_run_is_of_the_machines_that_recorded_its_epochs(write: Callable[..., Path], tmp_path: Path):
    for seed, first in ((0, (1, 2)), (1, (1,)), (2, ())):
        write(seed=seed, status=None, threads="1", epochs=first)
        write(seed=seed, threads="2", epochs=(1, 2))  # what is recorded already stays as it is
    one, two = Machine("1", "Xeon"), Machine("2", "Xeon")
    assert [run.machines for run in read_runs(tmp_path, QUICK)["exp6"]] == [{one}, {one, two}, {two}]


def test_how_many_images_there_were_is_what_the_runs_recorded():
    def start(**profile: int) -> dict[str, Any]:
        return {"dataset": {"profile": profile}}

    sample, full = start(train_images=7_000, val_images=1_000), start(train_images=60_000, val_images=10_000)
    shown = each([sample, full, sample, start(), {"tags": {}}], images)
    assert shown == "trained on 60,000, judged on 10,000 / trained on 7,000, judged on 1,000"


def test_the_run_in_mlflow_is_the_one_that_the_uploader_noted(write: Callable[..., Path], tmp_path: Path):
    (write(seed=0) / "upload.json").write_text(json.dumps({"store": "sqlite:///x", "run_id": "7", "events": 4}))
    (write(seed=1) / "upload.json").write_text("{")
    runs = read_runs(tmp_path, QUICK)["exp6"]
    assert [run.run_id for run in runs] == ["7", None]
    assert [run.store for run in runs] == ["sqlite:///x", ""]


# --- in a table ----------------------------------------------------------------------------------------


def test_a_summary_has_the_means_of_the_last_epoch_over_complete_runs(write: Callable[..., Path], tmp_path: Path):
    write(seed=0)
    write(seed=1, final=FINAL | {"final/val_accuracy": 0.5, "final/val_loss": 1.0})
    write(seed=2, state="pruned", final={})
    row = summarise("exp6", read_runs(tmp_path, QUICK)["exp6"])
    assert row == ArmSummary("exp6", 2, 1, 0.625, pytest.approx(0.125 * 2**0.5), 0.75, 3.0)


def test_a_summary_says_nothing_it_cannot_know(write: Callable[..., Path], tmp_path: Path):
    write("exp7", state="pruned", final={})
    write("exp6")
    one, none = (summarise(arm, runs) for arm, runs in read_runs(tmp_path, QUICK).items())
    assert (one.val_accuracy, one.val_accuracy_sd) == (0.75, None)
    assert none == ArmSummary("exp7", 0, 1, None, None, None, None)


def test_the_table_is_aligned():
    rows = [
        ArmSummary("exp1", 5, 0, 0.9, 0.01, 0.3, 12.345),
        ArmSummary("small-dropout-aug", 0, 2, None, None, None, None),
    ]
    assert table(rows) == [
        "arm                seeds  val accuracy      sd  val NLL  s/epoch  diverged",
        "exp1                   5        0.9000  0.0100   0.3000    12.35",
        "small-dropout-aug      0             -       -        -        -         2",
    ]
