"""Sweeps on a real Ray cluster of three nodes with one processor each, through the driver, MLflow and a study.

A worker is killed and a node is removed when the driver has handled the first epoch of a trial: as a training yields
at most two epochs more before it waits for the driver, it is then in the middle of its eight.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.environment import EXPERIMENT
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial
from sweeper.engine.base import Engine
from sweeper.engine.forkserver import start_server
from sweeper.study.opening import open_study
from sweeper.study.space import Choice, Range, Space
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.driver import Driver
from sweeper.tracking.base import RunInfo, Tracker
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.reading import read_events
from sweeper.tracking.upload import Figures
from sweeper.training.images import Data
from tests.faults.conftest import Tally
from tests.support.descendants import descendants
from tests.support.waiting import until

ray = pytest.importorskip("ray")

pytest_plugins = ["tests.support.mlflow_store"]
pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),  # of TPESampler's `group`
]

TRIALS = 20
EPOCHS = 8
BASE = RunConfig(model="small", epochs=EPOCHS, dataset="sample")
SPACE = Space({"lr": Range(0.001, 0.01, log=True), "batch_size": Choice((32, 64, 128))})
PATIENCE = 120  # seconds, for uploads that take ten
NODES = 3


@dataclass
class Nodes:
    """A cluster whose nodes were started while there was a password in the environment."""

    cluster: Any
    address: str

    def worker(self, trial: int) -> psutil.Process:
        """The process that trains `trial`."""
        named = [p for p, command in descendants().items() if command[:1] == [f"ray::trial {trial}"]]
        assert len(named) == 1, f"{len(named)} processes train trial {trial}"
        return named[0]

    def other_than_the_first(self, trial: int) -> Any:
        """The node that trains `trial`, or None if it is the first, which the driver is connected to."""
        raylet = self.worker(trial).ppid()
        found = [n for n in self.cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet]
        return found[0] if found else None


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    start_server()  # of other engines' workers: it stays
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "canary")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False}, shutdown_at_exit=False)
        try:
            for _ in range(NODES - 1):
                cluster.add_node()
            yield Nodes(cluster, cluster.address)
        finally:
            cluster.shutdown()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert [p.name() for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


@dataclass
class Watch:
    """A view that shows nothing, and calls `first_epoch` with the trial of each first epoch."""

    first_epoch: Callable[[int], None] = lambda _: None
    lost: list[int] = field(default_factory=list)

    def started(self, trial: Trial) -> None: ...

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        if result.epoch == 1:
            self.first_epoch(trial.number)

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        if outcome == "lost":
            self.lost.append(trial.number)

    def tick(self) -> None: ...


def drive(study: Study, engine: Engine, tracker: Tracker, view: Watch) -> None:
    def describe(trial: Trial) -> RunInfo:
        tags = {"sweeper.kind": "trial", "sweeper.trial": str(trial.number)}
        return RunInfo(f"{study.uid}/{trial.number}", f"{trial.number:03d}", trial.config.to_params(), tags, "",
                       f"chaos/{trial.number:04d}")  # fmt: skip

    Driver(study, engine, tracker, describe, view).run(TRIALS)


def test_a_sweep_survives_a_killed_worker_and_a_removed_node(
    tmp_path: Path,
    tiny: Data,
    nodes: Nodes,
    empty_store: Path,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
):
    """After the loss there are more slots than processors: trainings wait for one."""
    from sweeper.engine.ray import RayEngine

    monkeypatch.setenv("PGPASSWORD", "canary")
    environments: list[str] = []
    killed: list[int] = []
    removed: list[int] = []

    def strike(trial: int) -> None:
        environments.append(str(nodes.worker(trial).environ()))
        if trial >= 5 and not killed:
            nodes.worker(trial).kill()
            killed.append(trial)
        elif trial >= 9 and not removed and (node := nodes.other_than_the_first(trial)) is not None:
            nodes.cluster.remove_node(node, allow_graceful=False)
            removed.append(trial)

    shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = MlflowTracker(tmp_path / "journal", uri, Figures(lambda *_: b"", lambda *_: b""), lambda _: None)
    watch = Watch(strike)
    settings = StudySettings(BASE, SPACE, "0" * 64, pruner="none", seed=7)
    with (
        closing(open_study("chaos", settings, f"sqlite:///{tmp_path / 'sweeper.db'}")) as study,
        closing(RayEngine([tiny], None, address=nodes.address)) as engine,
    ):
        assert engine.slots == NODES
        drive(study, engine, tracker, watch)
        rows = study.rows()
    assert tracker.close(PATIENCE) == 0
    assert [len(killed), len(removed)] == [1, 1]
    assert "RAY_JOB_ID" in environments[0]
    assert "canary" not in str(environments)
    assert sorted(watch.lost) == sorted(killed + removed)
    assert [row.number for row in rows] == list(range(TRIALS))
    assert {row.state for row in rows} == {"complete"}
    attempts = {int(run.data.tags["sweeper.trial"]): run.data.tags["sweeper.attempt"] for run in runs_of(uri)}
    assert attempts == {n: "2" if n in watch.lost else "1" for n in range(TRIALS)}
    assert {run.info.status for run in runs_of(uri)} == {"FINISHED"}
    tally(
        "G1",
        {"kill -9 of a Ray worker": 1, "removed nodes of a Ray cluster": 1},
        {"trials lost": TRIALS - len(attempts), "epochs missing": missing_epochs(tmp_path / "journal/chaos")},
    )


def test_a_node_that_joins_is_used_and_a_few_trainings_wait_for_more(
    tiny: Data, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    from sweeper.engine import ray as engines
    from sweeper.engine.ray import QUEUED, RayEngine

    monkeypatch.setattr(engines, "LOOK_SECONDS", 0.2)
    with closing(RayEngine([tiny], None, address=nodes.address, few=7)) as engine:
        room = len(nodes.cluster.list_all_nodes())
        until(lambda: (engine.wait(0), engine.slots == room)[1], "the losses of other tests to be seen", 120)
        assert engine.free() == room + QUEUED
        nodes.cluster.add_node()
        until(lambda: (engine.wait(0), engine.slots == room + 1)[1], "the new node to be seen")
        large = nodes.cluster.add_node(num_cpus=10)
        until(lambda: (engine.wait(0), engine.slots == 7)[1], "the second one to be seen, as far as it is wanted")
        assert engine.free() == 7
        nodes.cluster.remove_node(large, allow_graceful=False)  # no training dies with it
        until(lambda: (engine.wait(0), engine.slots == room + 1)[1], "its loss to be seen", 120)
        assert engine.free() == room + 1 + QUEUED


def runs_of(uri: str) -> list[Any]:
    """Return MLflow's runs, one a trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert len(found) == TRIALS
    return list(found)


def missing_epochs(journal: Path) -> int:
    """Count the runs that do not have each epoch exactly once."""
    steps = [[e["step"] for e in read_events(folder) if e["event"] == "epoch"] for folder in journal.iterdir()]
    return sum(each != list(range(1, EPOCHS + 1)) for each in steps)
