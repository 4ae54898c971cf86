"""Sweeps on a real Ray cluster whose head trains nothing, with nodes that come as the tests need them.

The tests build on each other: at first the cluster has no node that trains, at the end it has no head.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import ServiceUnreachable
from sweeper.engine.forkserver import start_server
from sweeper.tracking.base import KILLED
from sweeper.tracking.reading import read_events
from sweeper.training.images import Data
from tests.faults.conftest import Tally
from tests.faults.tools.place import PATIENCE, SWEEP, Place
from tests.support.engines import ENDLESS, SOON, quick
from tests.support.waiting import until

ray = pytest.importorskip("ray")

pytest_plugins = ["tests.support.mlflow_store"]
pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
]

WITHOUT_SWEEPER = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sweeper":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    start_server()  # of other engines' workers: it stays
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"include_dashboard": False, "num_cpus": 0}
        made = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture(scope="module")
def node(cluster: Any) -> Any:
    """A node that trains two at a time."""
    return cluster.add_node(num_cpus=2)


def on(cluster: Any, trials: int, epochs: int) -> tuple[str, ...]:
    """A sweep with two trials at a time."""
    return (*SWEEP, "--engine", "ray", "--address", cluster.address, "--workers", "2", "--trials", str(trials),
            "--epochs", str(epochs))  # fmt: skip


def test_a_person_is_told_that_no_node_has_room(cluster: Any, tiny: Data, monkeypatch: pytest.MonkeyPatch):
    from sweeper.engine import ray as engines
    from sweeper.engine import ray_watch

    monkeypatch.setattr(engines, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(ray_watch, "ROOM_SECONDS", 1.0)
    said: list[str] = []
    with closing(engines.RayEngine([tiny], 2, address=cluster.address, cpus=2, warn=said.append)) as engine:
        engine.submit(0, quick(epochs=ENDLESS))
        until(lambda: (engine.wait(SOON), said)[1], "the warning")
        large = cluster.add_node(num_cpus=3)
        until(lambda: engine.wait(SOON), "the training to begin")
        engine.submit(1, quick(epochs=ENDLESS))  # waits, and the other one goes on
        until(lambda: engine.wait(SOON), "the next epoch")
        assert engine.free() == 0
    cluster.remove_node(large)
    (line,) = said
    assert line.startswith("1 run waiting: no Ray node has started one for ")
    assert line.endswith(" s. Each needs 2 CPU (0 of 0 free).")


def test_a_node_without_sweeper_ends_a_sweep_at_once(cluster: Any, real: Place, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SWEEPER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        bare = cluster.add_node()
    ended = real.run(*on(cluster, 4, 1))
    cluster.remove_node(bare)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: a node of the Ray cluster lacks a module: No module named 'sweeper")
    assert ended.stderr.endswith("Install the same sweeper on every node.\n")
    (failed,) = (row for row in real.rows() if row.state == "failed")
    assert failed.number in (0, 1)


@pytest.mark.parametrize(("signum", "whom"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_a_signal_ends_a_sweep_on_ray_and_leaves_nothing_running(
    cluster: Any, node: Any, real: Place, tally: Tally, signum: signal.Signals, whom: Any
):
    with real.begin(*on(cluster, 4, 200)) as process:
        until(lambda: real.measured("0000") or process.poll() is not None, "the first epoch", PATIENCE)
        whom(process.pid, signum)
        assert process.wait(PATIENCE) == 128 + signum, real.said
    assert real.said.splitlines() == [
        "warning: study 'sweep' was interrupted. Run the same command again to continue.",
        f"error: stopped by {signum.name}",
    ]
    assert read_events(real.home / "journal/sweep/0000")[-1]["status"] == KILLED
    tally("G9", {f"{signum.name} to a sweep on a Ray cluster": 1}, real.left_running())


def test_a_sweep_on_ray_whose_driver_is_killed_continues_to_exactly_n(
    cluster: Any, node: Any, real: Place, tally: Tally
):
    command = on(cluster, 4, 2)
    with real.begin(*command) as first:
        until(lambda: real.measured("0002") or first.poll() is not None, "the third trial's first epoch", PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)
    assert real.unfinished()
    again = real.run(*command)
    assert again.returncode == 0, again.stderr
    states = [row.state for row in real.rows()]
    finished = states.count("complete") + states.count("pruned")
    assert [row.number for row in real.rows()] == sorted(real.runs()) == list(range(4))
    lost = {"trials not finished": 4 - finished, "left RUNNING in the study": states.count("running")}
    tally("G1", {"kill -9 of a driver on Ray": 1}, lost | real.left_running())


def test_a_head_that_is_lost_is_told_and_ends_the_wait(
    cluster: Any, node: Any, tiny: Data, monkeypatch: pytest.MonkeyPatch
):
    from sweeper.engine import ray as engines
    from sweeper.engine import ray_watch

    monkeypatch.setattr(engines, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(ray_watch, "HEAD_SECONDS", 1.0)
    said: list[str] = []
    address = cluster.address
    with closing(engines.RayEngine([tiny], 1, address=address, warn=said.append)) as engine:
        engine.submit(0, quick(epochs=ENDLESS))
        until(lambda: engine.wait(SOON), "the training to begin")
        cluster.head_node.kill_gcs_server()
        with pytest.raises(ServiceUnreachable, match="is gone"):
            until(lambda: (engine.wait(SOON), False)[1], "the end of the wait")
    (line,) = said
    assert line == f"the Ray head node {address} does not answer: waiting up to 1 s"
