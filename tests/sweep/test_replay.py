"""Replays of a finished sweep's runs: the same bits, and what is said where they are not the same."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import DataError, UsageError
from sweeper.data.sources import find
from sweeper.sweep.replay import replay
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.fetching import UPLOAD, fetch
from sweeper.tracking.reading import EVENTS, read_events, read_record
from sweeper.training.folds import finish
from sweeper.training.gpu.captured import train_captured
from sweeper.training.images import load

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def home(tmp_path: Path, finished_sweep: Any) -> Path:
    return Path(shutil.copytree(finished_sweep.home, tmp_path / "home"))


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder of a trial that was trained to its end, not a duplicate."""
    folders = sorted((home / "journal/sweep").glob("00*"))
    ends = {folder: read_events(folder)[-1]["tags"] for folder in folders}
    return next(f for f, tags in ends.items() if "sweeper.weights_sha256" in tags and "sweeper.copy_of" not in tags)


@pytest.fixture
def said() -> list[str]:
    """The lines that replays print."""
    return []


@pytest.fixture
def again(home: Path, said: list[str]) -> Iterator[Callable[[object], dict[str, Any]]]:
    """`again(run)` replays a run of the sweep."""
    threads = torch.get_num_threads()
    env = Environment(home, f"sqlite:///{home / 'mlflow.db'}", "", None, False, lambda _: None, said.append)
    yield lambda run: replay(env, str(run))
    torch.set_num_threads(threads)


def compared(done: dict[str, Any]) -> tuple[str, int, bool]:
    return done["difference"], done["epochs"], done["weights"]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the recorded events of a run."""
    events = read_events(folder)
    for event in events:
        change(event)
    (folder / EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))


def cut(folder: Path, end: int) -> None:
    """Keep the first events of a run, or all but the last."""
    lines = (folder / EVENTS).read_text().splitlines(keepends=True)
    (folder / EVENTS).write_text("".join(lines[:end]))


@pytest.mark.parametrize("earlier", [0, pytest.param(5, marks=pytest.mark.slow)], ids=["the last two", "all"])
def test_the_runs_of_a_sweep_come_out_again_in_each_bit(home: Path, again: Callable[..., dict[str, Any]], earlier: int):
    names = sorted(f.name for f in (home / "journal/sweep").iterdir() if f.name != "study")
    assert len(names) == 6 + 1  # and the champion, which comes last
    for name in names[5 - earlier :]:
        done = again(f"sweep/{name}")
        assert done["identical"], (name, done["difference"])
        assert (done["epochs"], done["environment"]) == (2, [])
        assert done["weights"] == ("sweeper.weights_sha256" in read_events(home / "journal/sweep" / name)[-1]["tags"])


def test_a_run_is_found_in_mlflow_as_in_the_journal(home: Path, folder: Path):
    run_id = json.loads((folder / UPLOAD).read_text())["run_id"]
    shown, kept = fetch(f"sqlite:///{home / 'mlflow.db'}", run_id), read_record(folder)
    assert (shown.epochs, shown.params) == (kept.epochs, kept.params)
    assert kept.tags.items() <= shown.tags.items()


def test_the_first_epoch_that_differs_is_named(folder: Path, again: Callable[..., dict[str, Any]], said: list[str]):
    def change(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["step"] == 2:
            event["metrics"]["val/loss"] += 1e-9
        if event["event"] == "start":
            event["tags"]["sweeper.versions"] = "torch 1.0"

    rewrite(folder, change)
    done = again(folder)
    assert not done["identical"]
    assert done["difference"].startswith("epoch 2 is the first that differs: val/loss was ")
    assert done["environment"][0].startswith("packages: was torch 1.0, is ")
    assert said[-1].startswith("changed since the run was recorded: packages: was torch 1.0, is ")


def test_weights_that_differ_are_noticed(folder: Path, again: Callable[..., dict[str, Any]]):
    rewrite(folder, lambda e: e["tags"].update({"sweeper.weights_sha256": "0" * 64}) if e["event"] == "end" else None)
    assert again(folder)["difference"].startswith(f"the SHA-256 of the weights was {'0' * 64}, is ")


def test_a_run_that_was_stopped_is_compared_as_far_as_it_came(folder: Path, again: Callable[..., dict[str, Any]]):
    cut(folder, 2)  # its start, and one epoch
    assert compared(again(folder)) == ("", 1, False)


def test_another_data_set_is_refused(folder: Path, again: Callable[..., dict[str, Any]]):
    rewrite(folder, lambda e: e.get("tags", {}).update({"sweeper.dataset_sha256": "f" * 64}))
    with pytest.raises(
        DataError, match="images of sample have changed since they were recorded: their SHA-256 was ffffffffffff…"
    ):
        again(folder)


@pytest.mark.parametrize(
    ("run", "why"), [("0" * 32, "not found"), ("sweep/study", "no epoch was recorded"), ("sweep", "contains no run")]
)
def test_a_run_that_cannot_be_replayed_is_refused(again: Callable[..., dict[str, Any]], run: str, why: str):
    with pytest.raises(UsageError, match=why):
        again(run)


def test_a_run_that_the_captured_step_trained_is_replayed_by_it(
    folder: Path, again: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """Where there is no GPU, the captured step trains on the CPU, for the recorded run and its replay alike."""
    record = read_record(folder)
    config = RunConfig.from_params(record.params)
    torch.set_num_threads(int(record.tags["sweeper.threads"]))
    result = finish(train_captured(config, *load(config, find("sample"))))
    hashes = {"sweeper.history_sha256": result.history_sha256, "sweeper.weights_sha256": result.weights_sha256}

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            event["metrics"] |= epoch_metrics(result.history[event["step"] - 1])
        if event["event"] == "end":
            event["tags"] |= hashes

    rewrite(folder, change)
    monkeypatch.setattr("sweeper.training.start.is_captured", lambda config, images: True)
    assert compared(again(folder)) == ("", 2, True)


# --- runs that were continued ------------------------------------------------------------------------------


def continued(folder: Path, change: dict[str, str], kept: tuple[int, ...]) -> None:
    """Make a finished run one whose first attempt recorded the epochs `kept`, in values that differ a little.

    Its start had the tags in `change`, and the device in it.
    """
    start, *epochs, end = read_events(folder)
    first = copy.deepcopy(start)
    first["tags"] |= {name: value for name, value in change.items() if name != "device"}
    first["params"] |= {name: value for name, value in change.items() if name == "device"}
    early = [e for e in epochs if e["step"] in kept]
    for event in early:
        event["metrics"]["val/loss"] += 1e-9
    killed = {"event": "end", "time": start["time"], "status": "KILLED", "metrics": {},
              "tags": {"sweeper.state": "killed", "sweeper.weights_sha256": "0" * 64}}  # fmt: skip
    events = [first, *early, killed, start, *(e for e in epochs if e not in early), end]
    (folder / EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))


OTHER = {
    "sweeper.threads": "7",
    "sweeper.engine": "serial",
    "device": "cuda",
    "sweeper.hardware": "another processor",
    "sweeper.versions": "torch 1.0",
    "mlflow.source.git.commit": "f" * 40,
    "sweeper.git.changed": "perhaps",
}


@pytest.mark.parametrize("name", OTHER)
def test_epochs_of_an_attempt_that_trained_otherwise_are_kept_apart(folder: Path, name: str):
    whole = read_record(folder)
    continued(folder, {name: OTHER[name]}, (1,))
    record = read_record(folder)
    assert (set(record.epochs), set(record.earlier)) == ({2}, {1})
    assert (record.params, record.tags) == (whole.params, whole.tags)


def test_only_the_last_attempt_is_compared_where_an_earlier_one_trained_otherwise(
    folder: Path, again: Callable[..., dict[str, Any]], said: list[str]
):
    continued(folder, {"sweeper.threads": "7"}, (1,))
    assert compared(again(folder)) == ("", 1, True)
    assert said[-3:] == [
        "epoch 1/2: not compared, as an earlier attempt may have recorded it",
        "epoch 2/2: equal",
        "identical: 1 epochs and weights",
    ]


def test_an_attempt_that_recorded_nothing_but_its_end_is_compared_by_that(
    folder: Path, again: Callable[..., dict[str, Any]]
):
    continued(folder, {"sweeper.threads": "7"}, (1, 2))
    assert compared(again(folder)) == ("", 0, True)
    cut(folder, -1)
    with pytest.raises(UsageError, match="no epoch is known to be of its last attempt"):
        again(folder)


def test_epochs_of_an_attempt_that_trained_alike_are_compared(folder: Path, again: Callable[..., dict[str, Any]]):
    continued(folder, {}, (1,))
    assert set(read_record(folder).epochs) == {1, 2}
    assert again(folder)["difference"].startswith("epoch 1 is the first that differs: val/loss was ")


def test_a_continued_run_in_mlflow_is_compared_by_its_end(
    home: Path, folder: Path, again: Callable[..., dict[str, Any]]
):
    from mlflow import MlflowClient

    run_id = json.loads((folder / UPLOAD).read_text())["run_id"]
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    client.set_tag(run_id, "sweeper.attempt", "2")
    client.log_metric(run_id, "val/loss", 9.0, step=1)
    assert compared(again(run_id)) == ("", 0, True)
    client.set_tag(run_id, "sweeper.state", "killed")  # whose hashes are then those of an earlier attempt
    with pytest.raises(UsageError, match="replay its journal folder"):
        again(run_id)


# --- runs of the engine that an earlier version called fused -----------------------------------------------


@pytest.mark.parametrize("kept", [(), (1,)], ids=["to its end", "continued"])
def test_a_run_that_was_trained_in_a_stack_is_refused(
    folder: Path, again: Callable[..., dict[str, Any]], kept: tuple[int, ...]
):
    def stack(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            event["tags"]["sweeper.engine"] = "fused"
        if event["event"] == "epoch":
            event["metrics"] |= {"stack/members": 4, "stack/place": 2}

    rewrite(folder, stack)
    if kept:
        continued(folder, {"sweeper.engine": "serial"}, kept)
    with pytest.raises(UsageError, match="trained in a stack") as refused:
        again(folder)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("stacked", [True, False], ids=["continued without a stack", "trained alone"])
def test_a_run_whose_last_attempt_was_not_in_a_stack_is_replayed(
    folder: Path, again: Callable[..., dict[str, Any]], stacked: bool
):
    if stacked:
        rewrite(folder, lambda e: e["metrics"].update({"stack/members": 4}) if e.get("step") == 1 else None)
        continued(folder, {"sweeper.engine": "fused"}, (1,))
    else:
        rewrite(folder, lambda event: event.get("tags", {}).update({"sweeper.engine": "fused"}))
    assert again(folder)["identical"]
