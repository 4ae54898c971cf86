"""A home that version 0.1.0 left is continued, reported, synced, replayed and judged.

tests/homes/0.1.0.tar.gz holds a `train` run; a sweep with six finished trials, one of them pruned and one a duplicate,
and a seventh that failed; its champion; and a quick reproduction of two arms with its ledger. Most pictures, the HTML
pages and the exported model are left out. The tests use only the command line and the public interfaces of MLflow and
Optuna, so that they hold for every later version.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest

PACKED = Path(__file__).parents[1] / "homes" / "0.1.0.tar.gz"
RECORDED_AT = "/tmp/sweeper-home"  # only replaced in what is unpacked; nothing is read or written there
RECORDED_ON = {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "17"}
RECORDED_WITH = {"torch": "2.15.0", "numpy": "2.4.6"}
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
SEARCH = ("--exp", "1", "--epochs", "4", "--dataset", "sample", "--precision", "fp32", "--space", "space.yaml",
          "--workers", "1")  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home, unpacked. Absolute paths in its stores are those of its new place."""
    folder = tmp_path / "home"
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    for file in [*folder.glob("journal/**/*.json"), *folder.glob("journal/**/*.jsonl")]:
        file.write_text(file.read_text().replace(RECORDED_AT, str(folder)))
    relocate(folder / "mlflow.db", str(folder))
    return folder


def relocate(database: Path, folder: str) -> None:
    """Replace the recorded path in every text of MLflow's database, which holds absolute artifact URIs."""
    connection = sqlite3.connect(database)
    with connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for column in columns:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                    (RECORDED_AT, folder, RECORDED_AT),
                )
    connection.close()


def run(home: Path, alone: dict[str, str], *command: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The object that a command prints with --json."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *command, "--json"],
        cwd=home,
        env=alone | {"SWEEPER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trials(home: Path) -> list[optuna.trial.FrozenTrial]:
    """All trials of the sweep, as Optuna reads them."""
    return optuna.load_study(study_name="old", storage=f"sqlite:///{home}/sweeper.db").trials


def runs(home: Path) -> dict[str, mlflow.entities.Run]:
    """All runs by name, as MLflow reads them; no name may occur twice."""
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("bn-dropout")
    found = client.search_runs([experiment.experiment_id])
    assert not [name for name, count in Counter(run.info.run_name for run in found).items() if count > 1]
    return {run.info.run_name: run for run in found}


def recorded_here() -> bool:
    """Whether this machine and its packages compute the bits that the home was recorded with."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    fields = dict(line.replace("\t", "").split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines())
    same_processor = all(fields.get(name, "").strip() == value for name, value in RECORDED_ON.items())
    return same_processor and all(version(name) == value for name, value in RECORDED_WITH.items())


def content(run: mlflow.entities.Run) -> tuple[Any, ...]:
    """Everything that a finished run says."""
    data, info = run.data, run.info
    return info.run_id, info.status, info.start_time, info.end_time, data.params, data.metrics, data.tags


def test_a_sweep_is_continued_and_its_trials_stay_as_they_were(home: Path, alone: dict[str, str]) -> None:
    trials_before, runs_before = trials(home), runs(home)
    assert Counter(trial.state.name for trial in trials_before) == {"COMPLETE": 5, "PRUNED": 1, "FAIL": 1}

    result = run(home, alone, "optimize", "--study", "old", *SEARCH, "--trials", "8")

    assert (result["finished"], result["added"]) == (8, 2)
    after = trials(home)
    assert after[:7] == trials_before
    assert [trial.number for trial in after] == list(range(9))
    assert all(trial.state.is_finished() for trial in after)
    runs_after = runs(home)
    finished = {name for name, run in runs_before.items() if run.data.tags["sweeper.kind"] in ("trial", "run")}
    assert {name: content(runs_after[name]) for name in finished} == {
        name: content(runs_before[name]) for name in finished
    }
    kinds = Counter(run.data.tags["sweeper.kind"] for run in runs_after.values())
    assert kinds["trial"] == Counter(run.data.tags["sweeper.kind"] for run in runs_before.values())["trial"] + 2
    assert run(home, alone, "sync") == {"carried": 0}


def test_it_is_read(home: Path, alone: dict[str, str]) -> None:
    status = run(home, alone, "status", "old")
    assert Counter(trial["state"] for trial in status["trials"]) == {"complete": 5, "pruned": 1, "failed": 1}
    for trial, stored in zip(status["trials"], trials(home), strict=True):
        assert (trial["number"], trial["params"], trial["value"]) == (
            stored.number,
            stored.params,
            list(stored.intermediate_values.values())[-1] if stored.intermediate_values else None,
        )
    before = {name: content(found) for name, found in runs(home).items()}
    assert run(home, alone, "sync") == {"carried": 0}
    run(home, alone, "report", "old")
    page = (home / "report" / "old.html").read_text()
    assert "bn-dropout" in page
    assert "SIGKILL" in page or "failed" in page
    assert {name: content(found) for name, found in runs(home).items()} == before


@pytest.mark.parametrize("by", ["id", "journal"])
def test_a_run_is_replayed(home: Path, alone: dict[str, str], by: str) -> None:
    """Bit by bit on the class of machine that recorded it; elsewhere the configuration is read and trained."""
    recorded = runs(home)["exp1 seed0"]
    [folder] = (home / "journal" / "runs").iterdir()
    result = run(home, alone, "replay", recorded.info.run_id if by == "id" else str(folder), codes=(0, 1))
    again = {name: str(value) for name, value in result["config"].items()}
    expected = recorded.data.params | {"split": "test"}  # which 0.1.0 called blog
    assert {name: again[name] for name in recorded.data.params} == expected
    assert result["epochs"] == 3
    assert result["identical"] == (not result["difference"])
    if recorded_here():
        assert result["identical"], result["difference"]
        assert result["weights"]


def test_a_run_with_batch_norm_is_examined_again(home: Path, alone: dict[str, str]) -> None:
    """Its X-ray is almost what 0.1.0 recorded, on any machine."""
    recorded = next(found for found in runs(home).values() if "xray/variance_shift" in found.data.metrics)
    found = run(home, alone, "xray", recorded.info.run_id)
    shift = [layer["ratio"] for layer in found["layers"]]
    assert sum(shift) / len(shift) == pytest.approx(recorded.data.metrics["xray/variance_shift"], rel=0.01)
    gain = recorded.data.metrics["xray/recalibration_gain_loss"]
    assert found["recalibration_gain_loss"] == pytest.approx(gain, abs=0.01)


def test_a_reproduction_is_judged_as_it_was(home: Path, alone: dict[str, str]) -> None:
    then = json.loads((home / "report" / "quick" / "ledger.json").read_text())
    now = run(home, alone, "verify", "--protocol", "quick-6")
    assert [verdict(claim) for claim in now["claims"]] == [verdict(claim) for claim in then["claims"]]
    assert now["claims"][0]["tests"][0]["estimate"] == then["claims"][0]["tests"][0]["estimate"]
    assert (home / "report" / "quick-6" / "ledger.html").is_file()


def verdict(claim: dict[str, Any]) -> tuple[int, str]:
    return claim["claim"], claim["verdict"]
