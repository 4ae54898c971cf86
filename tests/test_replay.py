"""Replays of a finished sweep's runs: the same bits, and what is said where they are not the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.environment import Environment
from sweeper.errors import DataError, UsageError
from sweeper.journal import EVENTS, read_events, read_record
from sweeper.replay import Replayed, replay
from sweeper.tracking import UPLOAD, fetch

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
