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
from sweeper.data.fashion import SAMPLE_DIR
from sweeper.sweep.replay import Replayed, replay
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
def again(home: Path) -> Iterator[Callable[[str], Replayed]]:
    """`again(run)` replays a run of the sweep; what it says and warns of is left on it."""
    threads = torch.get_num_threads()
    uri = f"sqlite:///{home / 'mlflow.db'}"

    def call(run: str) -> Replayed:
        env = Environment(home, uri, "", None, False, call.warned.append, call.said.append)  # type: ignore[attr-defined]
        return replay(env, run)

    call.warned, call.said = [], []  # type: ignore[attr-defined]
    yield call
    torch.set_num_threads(threads)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the recorded events of a run."""
    events = read_events(folder)
    for event in events:
        change(event)
    (folder / EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))


def complete_trial(home: Path) -> str:
    """The folder of a trial that was trained to its end, not copied from another."""
    folders = sorted((home / "journal/sweep").glob("00*"))
    ends = {f.name: read_events(f)[-1]["tags"] for f in folders}
    return next(
        f"sweep/{name}"
        for name, tags in ends.items()
        if "sweeper.weights_sha256" in tags and "sweeper.copy_of" not in tags
    )


def test_every_run_of_a_sweep_comes_out_again_in_each_bit(home: Path, again: Callable[[str], Replayed]):
    names = [f.name for f in (home / "journal/sweep").iterdir() if f.name != "study"]
    assert len(names) == 6 + 1  # and the champion
    for name in names:
        done = again(f"sweep/{name}")
        assert done.identical, (name, done.difference)
        assert done.epochs == 2
        assert done.environment == ()
    assert again(complete_trial(home)).weights
    assert again(next(f"sweep/{n}" for n in names if n.startswith("champion"))).weights


def test_a_run_is_found_in_mlflow_as_in_the_journal(home: Path):
    folder = complete_trial(home)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    run_id = json.loads((home / "journal" / folder / UPLOAD).read_text())["run_id"]
    shown, kept = fetch(uri, run_id), read_record(home / "journal" / folder)
    assert shown.epochs == kept.epochs
    assert shown.params == kept.params
    assert kept.tags.items() <= shown.tags.items()


def test_the_first_epoch_that_differs_is_named(home: Path, again: Callable[[str], Replayed]):
    folder = complete_trial(home)

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["step"] == 2:
            event["metrics"]["val/loss"] += 1e-9
        if event["event"] == "start":
            event["tags"]["sweeper.versions"] = "torch 1.0"

    rewrite(home / "journal" / folder, change)
    done = again(folder)
    assert not done.identical
    assert done.difference.startswith("epoch 2 is the first that differs: val/loss was ")
    assert done.environment[0].startswith("packages: was torch 1.0, is ")


def test_weights_that_differ_are_noticed(home: Path, again: Callable[[str], Replayed]):
    folder = complete_trial(home)
    rewrite(home / "journal" / folder, lambda e: e["tags"].update({"sweeper.weights_sha256": "0" * 64})
            if e["event"] == "end" else None)  # fmt: skip
    assert again(folder).difference.startswith(f"the SHA-256 of the weights was {'0' * 64}, is ")


def test_a_run_that_was_stopped_is_compared_as_far_as_it_came(home: Path, again: Callable[[str], Replayed]):
    folder = home / "journal" / complete_trial(home)
    lines = (folder / EVENTS).read_text().splitlines(keepends=True)
    (folder / EVENTS).write_text("".join(lines[:2]))  # its start, and one epoch
    done = again(str(folder))
    assert (done.identical, done.epochs, done.weights) == (True, 1, False)


def test_another_data_set_is_refused(home: Path, again: Callable[[str], Replayed]):
    folder = complete_trial(home)
    rewrite(home / "journal" / folder, lambda e: e.get("tags", {}).update({"sweeper.dataset_sha256": "f" * 64}))
    with pytest.raises(DataError, match="SHA-256 ffffffffffff…"):
        again(folder)


def test_what_cannot_be_replayed_is_refused_in_one_line(home: Path, again: Callable[[str], Replayed]):
    with pytest.raises(UsageError, match="not found"):
        again("0" * 32)
    with pytest.raises(UsageError, match="no epoch was recorded"):
        again("sweep/study")
    with pytest.raises(UsageError, match="holds no run"):
        again("sweep")


# --- runs that a GPU trained ---------------------------------------------------------------------------------


def test_a_run_that_the_captured_step_trained_is_replayed_by_it(
    home: Path, again: Callable[[str], Replayed], monkeypatch: pytest.MonkeyPatch
):
    """Where there is no GPU, the captured step trains on the CPU, for the recorded run and its replay alike."""
    folder = home / "journal" / complete_trial(home)
    config = RunConfig.from_params(read_record(folder).params)
    torch.set_num_threads(int(read_record(folder).tags["sweeper.threads"]))
    result = finish(train_captured(config, *load(config, SAMPLE_DIR)))
    hashes = {"sweeper.history_sha256": result.history_sha256, "sweeper.weights_sha256": result.weights_sha256}

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            event["metrics"] |= epoch_metrics(result.history[event["step"] - 1])
        if event["event"] == "end":
            event["tags"] |= hashes

    rewrite(folder, change)
    monkeypatch.setattr("sweeper.training.start.is_captured", lambda config: True)
    done = again(str(folder))
    assert (done.difference, done.epochs, done.weights) == ("", 2, True)


# --- runs that were continued ------------------------------------------------------------------------------


def continued(folder: Path, change: dict[str, str], kept: tuple[int, ...], by: float = 1e-9) -> None:
    """Make of a finished run one whose first attempt recorded the epochs `kept`, in values that differ `by` a little.

    Its start had the tags in `change`, and the device in it.
    """
    start, *epochs, end = read_events(folder)
    first = copy.deepcopy(start)
    first["tags"] |= {name: value for name, value in change.items() if name != "device"}
    first["params"] |= {name: value for name, value in change.items() if name == "device"}
    early = [e for e in epochs if e["step"] in kept]
    for event in early:
        event["metrics"]["val/loss"] += by
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
def test_epochs_of_an_attempt_that_trained_otherwise_are_kept_apart(home: Path, name: str):
    folder = home / "journal" / complete_trial(home)
    whole = read_record(folder)
    continued(folder, {name: OTHER[name]}, (1,))
    record = read_record(folder)
    assert (set(record.epochs), set(record.earlier)) == ({2}, {1})
    assert (record.params, record.tags) == (whole.params, whole.tags)


def test_only_the_last_attempt_is_compared_where_an_earlier_one_trained_otherwise(
    home: Path, again: Callable[[str], Replayed]
):
    folder = complete_trial(home)
    continued(home / "journal" / folder, {"sweeper.threads": "7"}, (1,))
    done = again(folder)
    assert (done.difference, done.epochs, done.weights) == ("", 1, True)
    assert again.said[-2:] == [  # type: ignore[attr-defined]
        "epoch 1/2: not compared, as an earlier attempt may have recorded it", "epoch 2/2: equal",
    ]  # fmt: skip


def test_an_attempt_that_recorded_nothing_but_its_end_is_compared_by_that(home: Path, again: Callable[[str], Replayed]):
    folder = complete_trial(home)
    continued(home / "journal" / folder, {"sweeper.threads": "7"}, (1, 2))
    done = again(folder)
    assert (done.difference, done.epochs, done.weights) == ("", 0, True)
    lines = (home / "journal" / folder / EVENTS).read_text().splitlines(keepends=True)
    (home / "journal" / folder / EVENTS).write_text("".join(lines[:-1]))
    with pytest.raises(UsageError, match="no epoch is known to be of its last attempt"):
        again(folder)


def test_epochs_of_an_attempt_that_trained_alike_are_compared(home: Path, again: Callable[[str], Replayed]):
    folder = complete_trial(home)
    continued(home / "journal" / folder, {}, (1,))
    assert set(read_record(home / "journal" / folder).epochs) == {1, 2}
    assert again(folder).difference.startswith("epoch 1 is the first that differs: val/loss was ")


def test_a_continued_run_in_mlflow_is_compared_by_its_end(home: Path, again: Callable[[str], Replayed]):
    from mlflow import MlflowClient

    uri = f"sqlite:///{home / 'mlflow.db'}"
    run_id = json.loads((home / "journal" / complete_trial(home) / UPLOAD).read_text())["run_id"]
    client = MlflowClient(tracking_uri=uri)
    client.set_tag(run_id, "sweeper.attempt", "2")
    client.log_metric(run_id, "val/loss", 9.0, step=1)
    done = again(run_id)
    assert (done.difference, done.epochs, done.weights) == ("", 0, True)
    client.set_tag(run_id, "sweeper.state", "killed")  # whose hashes are then those of an earlier attempt
    with pytest.raises(UsageError, match="its folder in a journal tells more"):
        again(run_id)


# --- runs that an earlier version stacked ------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(), (1,)], ids=["to its end", "continued"])
def test_a_run_that_was_trained_in_a_stack_is_refused_in_one_line(
    home: Path, again: Callable[[str], Replayed], kept: tuple[int, ...]
):
    folder = home / "journal" / complete_trial(home)

    def stack(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            event["tags"]["sweeper.engine"] = "fused"
        if event["event"] == "epoch":
            event["metrics"] |= {"stack/members": 4, "stack/place": 2}

    rewrite(folder, stack)
    if kept:
        continued(folder, {"sweeper.engine": "serial"}, kept)
    with pytest.raises(UsageError, match="trained in a stack") as refused:
        again(str(folder))
    assert len(str(refused.value).splitlines()) == 1


def test_a_run_that_was_continued_without_a_stack_is_replayed(home: Path, again: Callable[[str], Replayed]):
    folder = home / "journal" / complete_trial(home)
    rewrite(folder, lambda event: event["metrics"].update({"stack/members": 4}) if event.get("step") == 1 else None)
    continued(folder, {"sweeper.engine": "fused"}, (1,))
    assert again(str(folder)).identical


def test_a_run_that_engine_fused_trained_alone_is_replayed(home: Path, again: Callable[[str], Replayed]):
    folder = home / "journal" / complete_trial(home)
    rewrite(folder, lambda event: event.get("tags", {}).update({"sweeper.engine": "fused"}))
    assert again(str(folder)).identical
