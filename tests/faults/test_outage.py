"""G2 and G6: no metric is lost or doubled, whatever becomes of the tracking server; and an outage stops nothing."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from sweeper.tracking.base import FINISHED, RunInfo
from sweeper.tracking.fetching import KEY_TAG, run_id_of
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.reading import read_events, run_folders
from sweeper.tracking.upload import Figures
from tests.faults.conftest import Tally
from tests.faults.tools.place import OFFLINE, PATIENCE, SWEEP, Place
from tests.faults.tools.proxy import Proxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.mlflow_store import MlflowServer

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

METRICS = 10
DRAINED_SECONDS = 60
Point = tuple[str, str, int, int, float]  # run, metric, step, time, value


def in_journal(root: Path) -> Counter[Point]:
    """Return the points that the store must have: those of each epoch, and at step 0 the last values."""
    return Counter(
        (str(folder.relative_to(root)), name, event.get("step", 0), event["time"], value)
        for folder in run_folders(root)
        for event in read_events(folder)
        for name, value in event.get("metrics", {}).items()
    )


def in_store(root: Path, uri: str, through: str) -> Counter[Point]:
    """Return the points of these runs in the store at `uri`, which got them under the name `through`."""
    from mlflow import MlflowClient

    client, points = MlflowClient(tracking_uri=uri), Counter()
    for folder in run_folders(root):
        name = str(folder.relative_to(root))
        run_id = run_id_of(root, name, through)
        assert run_id is not None, f"{name} is not there"
        run = client.get_run(run_id)
        assert run.info.status == FINISHED
        key = run.data.tags[KEY_TAG]
        same = client.search_runs([run.info.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", run_view_type=3)
        assert len(same) == 1, "a run is there twice"
        for metric in run.data.metrics:
            history = client.get_metric_history(run_id, metric)
            points.update((name, metric, m.step, m.timestamp, m.value) for m in history)
    return points


def lost(root: Path, uri: str, through: str) -> dict[str, int]:
    journal, store = in_journal(root), in_store(root, uri, through)
    return {"points lost": (journal - store).total(), "points doubled": (store - journal).total()}


@pytest.fixture
def proxy(mlflow_server: MlflowServer) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    proxy = Proxy(urlsplit(mlflow_server.uri).port)
    yield proxy
    proxy.cut()


def write_runs(tracker: MlflowTracker, runs: int, epochs: int) -> None:
    """Write runs of `METRICS` metrics an epoch, as fast as the journal takes them."""
    values = random.Random(0)
    for number in range(runs):
        info = RunInfo(uuid.uuid4().hex, f"{number:03d}", {}, {"sweeper.kind": "trial"}, "", f"points/{number:04d}")
        log = tracker.start(info)
        for step in range(1, epochs + 1):
            log.epoch(step, {f"group/m{m}": values.random() for m in range(METRICS)})
        log.end(FINISHED, {"final/m": values.random()}, {"sweeper.state": "complete"})


def carried(root: Path) -> int:
    """Return how many events MLflow has acknowledged."""
    notes = [json.loads(path.read_bytes()) for path in root.glob("**/upload.json")]
    return sum(note["events"] for note in notes)


def through(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


# --- G2 ------------------------------------------------------------------------------------------------


def write_through(root: Path, uri: str, runs: int, epochs: int, outages: int, outage: Callable[[], None]) -> None:
    """Write points while the server fails `outages` times, each time when its share of the events has arrived."""
    events = runs * (epochs + 2)
    tracker = MlflowTracker(root, uri, Figures(lambda *_: b"", lambda *_: b""), lambda _: None)
    writer = threading.Thread(target=write_runs, args=(tracker, runs, epochs))
    writer.start()
    for nth in range(1, outages + 1):
        reached = events * nth // (outages + 1)
        until(lambda reached=reached: carried(root) >= reached, f"{reached} events in MLflow", PATIENCE)
        outage()
    writer.join()
    assert tracker.close(PATIENCE) == 0
    assert carried(root) == events


def test_no_point_is_lost_or_doubled_where_connections_break(
    tmp_path: Path, mlflow_server: MlflowServer, proxy: Proxy, tally: Tally
):
    def outage() -> None:
        proxy.cut()
        proxy.mend()

    root = tmp_path / "journal"
    write_through(root, through(proxy), 10, 20, 3, outage)
    done = {"points": in_journal(root).total(), "cut connections": 3}
    tally("G2", done, lost(root, mlflow_server.uri, through(proxy)))


@pytest.mark.slow
def test_no_point_is_lost_or_doubled_where_the_server_is_killed(
    tmp_path: Path, make_server: Callable[[], MlflowServer], tally: Tally
):
    server = make_server()
    server.start()

    def outage() -> None:
        server.stop()
        server.start()

    root = tmp_path / "journal"
    write_through(root, server.uri, 100, 100, 5, outage)
    tally("G2", {"points": in_journal(root).total(), "server kills": 5}, lost(root, server.uri, server.uri))
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["uploading", "noting"])
def test_no_point_is_doubled_where_sync_is_killed(place: Place, mlflow_server: MlflowServer, tally: Tally, at: str):
    command = (*SWEEP, *OFFLINE, "--trials", "4", "--epochs", "3")
    assert place.run(*command).returncode == 0
    sync = ("sync", "--tracking-uri", mlflow_server.uri)
    for nth in (1, 3):
        place.faults = {"strikes": [{"at": at, "nth": nth, "signal": "SIGKILL"}]}
        place.stopped_by(signal.SIGKILL, *sync)
    place.faults = {}
    done = place.run(*sync)
    assert done.returncode == 0, done.stderr
    root = place.home / "journal"
    counted = {"points": in_journal(root).total(), "kill -9 of sync": 2}
    tally("G2", counted, lost(root, mlflow_server.uri, mlflow_server.uri))


# --- G6 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3, pytest.param(120, marks=pytest.mark.slow)])
def test_an_outage_stops_no_training_and_loses_nothing(
    place: Place, mlflow_server: MlflowServer, proxy: Proxy, tally: Tally, seconds: int
):
    """The server goes away after the first epoch, and is back `seconds` after it, or after half the trials."""
    trials = max(4, seconds // 5)
    place.faults = {"pace": seconds / 2 / trials}
    command = (*SWEEP, "--tracking-uri", through(proxy), "--trials", str(trials), "--epochs", "4", "--pruner", "none")
    root = place.home / "journal"
    with place.begin(*command) as sweep:
        until(lambda: place.measured("0000"), "the first epoch", PATIENCE)
        proxy.cut()
        away = time.monotonic()
        until(lambda: place.count("over") >= trials // 2, "half of the trials", PATIENCE)
        until(lambda: time.monotonic() > away + seconds, f"{seconds} s to pass", PATIENCE)
        during = place.count("over")
        proxy.mend()
        assert sweep.wait(PATIENCE) == 0, place.said
    assert "is back" in place.said
    assert "not in MLflow yet" not in place.said
    done = {f"outage of {seconds} s": 1, "trials ended meanwhile": during, "points": in_journal(root).total()}
    tally("G6", done, lost(root, mlflow_server.uri, through(proxy)))


@pytest.mark.slow
@pytest.mark.parametrize(("delay", "refused"), [(0.5, 0.0), (0.0, 0.3)], ids=["500 ms", "30 % of 503"])
def test_a_slow_or_overloaded_server_loses_nothing(
    place: Place, mlflow_server: MlflowServer, proxy: Proxy, tally: Tally, delay: float, refused: float
):
    proxy.delay, proxy.refused = delay, refused
    command = (*SWEEP, "--tracking-uri", through(proxy), "--trials", "4", "--epochs", "4", "--pruner", "none")
    place.faults = {"pace": 1}  # a run that trains in no time outruns its upload, at 500 ms a request
    for _ in range(10):  # at its start it may be turned away, by a server that answers 503
        done = place.run(*command)
        if done.returncode != 4:
            break
    assert done.returncode == 0, done.stderr
    if refused:
        assert proxy.refusals > 0
    proxy.delay, proxy.refused = 0.0, 0.0
    place.faults = {}
    assert place.run("sync", "--tracking-uri", through(proxy)).returncode == 0  # what had not arrived in a minute
    root = place.home / "journal"
    what = {f"answers 503, at {refused:.0%}": proxy.refusals} if refused else {f"sweeps with {delay} s of latency": 1}
    tally("G6", what | {"points": in_journal(root).total()}, lost(root, mlflow_server.uri, through(proxy)))
