"""One authority for each fact: a journal, a study or an MLflow database that is missing, older or another's."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sweeper.core.environment import EXPERIMENT
from sweeper.tracking.reading import read_all_events, read_events
from tests.faults.conftest import Tally
from tests.faults.tools.place import SWEEP, Place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

STORES = {"journal": "journal", "study": "sweeper.db", "mlflow": "mlflow.db"}
REFUSED = {("study", "missing"), ("study", "another's"), ("journal", "another's")}  # the others have one right answer
CASES = [(store, age) for store in STORES for age in ("missing", "older", "another's")]
EPOCHS = 3


def command(trials: int) -> tuple[str, ...]:
    return (*SWEEP, "--trials", str(trials), "--epochs", str(EPOCHS))


def replace(path: Path, other: Path | None) -> None:
    """Put a copy of `other` in the place of `path`, or nothing."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if other is not None:
        shutil.copytree(other, path) if other.is_dir() else shutil.copy(other, path)


def contents(home: Path) -> dict[str, str]:
    """The hash of every file of a home, but for databases, which may be opened, and their locks."""
    files = (path for path in home.rglob("*") if path.is_file() and ".db" not in path.suffixes)
    return {str(p.relative_to(home)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Homes(NamedTuple):
    """Copies of a home: after three trials, after six, and one that went another way after three."""

    older: Path
    present: Path
    another: Path


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, alone: dict[str, str]) -> tuple[Place, Homes]:
    """A place, and what its home may be replaced by."""
    aside = tmp_path_factory.mktemp("stores")
    place = Place(aside / "home", alone, {})
    place.home.mkdir()
    shutil.copy(empty_store, place.home)
    found = Homes(aside / "older", aside / "present", aside / "another")
    assert place.run(*command(3)).returncode == 0
    shutil.copytree(place.home, found.older)
    assert place.run(*command(6)).returncode == 0
    shutil.copytree(place.home, found.present)
    replace(place.home, found.older)
    for store in STORES.values():
        replace(place.home / store, None)
    shutil.copy(empty_store, place.home)
    assert place.run(*command(4), "--seed", "7").returncode == 0
    shutil.copytree(place.home, found.another)
    return place, found


@pytest.fixture
def place_with(homes: tuple[Place, Homes]) -> Callable[[str, str], Place]:
    """The place after six trials, with one store of another age."""
    place, found = homes

    def replaced(store: str, age: str) -> Place:
        replace(place.home, found.present)
        other = {"older": found.older, "another's": found.another}.get(age)
        replace(place.home / STORES[store], other and other / STORES[store])
        return place

    return replaced


def wrong(place: Place, trials: int) -> dict[str, int]:
    """What is lost, doubled or stuck in MLflow and in the study."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place.home / 'mlflow.db'}")
    runs = [run for run in place.all_runs() if run.data.tags["sweeper.kind"] == "trial"]
    per_trial = Counter(run.data.tags["sweeper.trial"] for run in runs)
    doubled = lost = 0
    for run in runs:
        for name in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            doubled += len(steps) - len(set(steps))
            lost += name == "val/accuracy" and run.data.tags["sweeper.state"] == "complete" and len(steps) < EPOCHS
    return {
        "trials not finished": trials - sum(row.state in ("complete", "pruned") for row in place.rows()),
        "trials without a run": len({str(n) for n in range(trials)} - per_trial.keys()),
        "runs doubled": sum(n - 1 for n in per_trial.values()),
        "points doubled": doubled,
        "epochs lost": lost,
        "finished runs downgraded": sum(run.info.status in ("KILLED", "FAILED") for run in runs),
        "left RUNNING": sum(run.info.status == "RUNNING" for run in runs),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("store", "age"), CASES)
def test_a_store_of_another_age_loses_and_doubles_nothing(
    place_with: Callable[[str, str], Place], tally: Tally, store: str, age: str
):
    place = place_with(store, age)
    before = contents(place.home)
    done = place.run(*command(8))
    if (store, age) in REFUSED:
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "--study" in line
        assert contents(place.home) == before
        return
    assert done.returncode == 0, done.stderr
    found = wrong(place, 8)
    if (store, age) == ("mlflow", "another's"):
        found["runs doubled"] = 0  # those of the other home are there as well
    tally("one authority", {f"{store} {age}": 1}, found)


@pytest.mark.slow
@pytest.mark.parametrize("age", ["missing", "older"])
def test_sync_uploads_again_what_a_restored_store_lacks(
    place_with: Callable[[str, str], Place], tally: Tally, age: str
):
    place = place_with("mlflow", age)
    done = place.run("sync")
    assert done.returncode == 0, done.stderr
    tally("one authority", {f"sync to an MLflow database {age}": 1}, wrong(place, 6))


def events(place: Place, trial: int) -> list[dict[str, Any]]:
    return read_events(place.home / f"journal/sweep/{trial:04d}")


@pytest.mark.parametrize("nth", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_trial_that_has_ended_in_the_journal_is_not_trained_again(place: Place, tally: Tally, nth: int):
    """Killed between the end in the journal and the study, of which every pass of the driver has one."""
    place.strike("telling", nth, signal.SIGKILL)
    place.stopped_by(signal.SIGKILL, *command(6), "--workers", "2")
    running = [row.number for row in place.rows() if row.state == "running"]
    ended = [number for number in running if events(place, number)[-1]["event"] == "end"]
    assert ended, "the kill hit no trial that had ended in the journal"
    place.faults = {}
    done = place.run(*command(6), "--workers", "2")
    assert done.returncode == 0, done.stderr
    ends = {n: sum(e["event"] == "end" for e in events(place, n)) for n in ended}
    assert ends == dict.fromkeys(ended, 1)
    tally("one authority", {"kill -9 between journal and study": 1}, wrong(place, 6))


def trainings(client: MlflowClient, home: Path) -> dict[str, int]:
    """Count the faults in the runs of one home, in a store that a second home uploads to as well."""
    (experiment,) = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
    runs = client.search_runs([experiment.experiment_id], "tags.`sweeper.kind` = 'trial'")
    stored = [
        Counter((name, p.step, p.timestamp) for name in run.data.metrics for p in points_of(client, run, name))
        for run in runs
    ]
    found = {"points doubled": sum(n - 1 for points in stored for n in points.values()), "trainings without a run": 0}
    found["steps with two trainings"] = sum(
        n - 1 for points in stored for n in Counter((name, step) for name, step, _ in points).values()
    )
    for folder, events in read_all_events(home / "journal/sweep", lambda _: None):
        if folder.name.isdigit():
            ours = Counter((n, e.get("step", 0), e["time"]) for e in events for n in e.get("metrics", {}))
            found["trainings without a run"] += stored.count(ours) != 1
    return found


def points_of(client: MlflowClient, run: Run, name: str) -> list[Metric]:
    return client.get_metric_history(run.info.run_id, name)


@pytest.mark.slow
def test_a_copied_home_that_goes_on_as_well_shares_no_run_with_the_first(
    place: Place, tally: Tally, tmp_path: Path, empty_store: Path
):
    """Copied after a kill -9 with a trial in the middle, which both then end, and both ask for others."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'shared.db')}"
    place.strike("reporting", 11, signal.SIGKILL)  # trials of three epochs
    place.stopped_by(signal.SIGKILL, *command(6), "--tracking-uri", uri)
    assert place.run("sync", "--tracking-uri", uri).returncode == 0
    assert place.unfinished()
    other = Place(tmp_path / "copy", place.env, {}, name="copy")
    shutil.copytree(place.home, other.home)
    place.faults = {}
    for each, trials in ((place, 7), (other, 8)):
        done = each.run(*command(trials), "--tracking-uri", uri)
        assert done.returncode == 0, done.stderr
    assert "perhaps from a copy of this journal" in done.stderr
    for each in (place, other):
        done = each.run("sync", "--all", "--tracking-uri", uri)
        assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=uri)
    found = Counter(trainings(client, place.home)) + Counter(trainings(client, other.home))
    tally("one authority", {"copied homes": 1}, dict(found))
