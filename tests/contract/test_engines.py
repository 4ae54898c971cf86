"""What every engine promises, and what only tasks on Ray can."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, ServiceUnreachable, TrainingError, UsageError, WorkerLost
from sweeper.core.results import TrainResult
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.sweep.networks import with_source
from sweeper.training.folds import finish
from sweeper.training.images import Data
from sweeper.training.start import start
from tests.support.descendants import computes, descendants
from tests.support.engines import ENDLESS, SOON, THREADS, ends, events, gone, lost_one, quick, train_all
from tests.support.factories import PLAIN, write
from tests.support.waiting import until

pytest_plugins = ["tests.support.engines"]


@pytest.fixture(scope="module")
def serial(split: list[Data]) -> Iterator[SerialEngine]:
    with closing(SerialEngine(split, THREADS)) as made:
        yield made


@pytest.fixture(scope="module")
def one_worker(shared: SharedSplits) -> Iterator[ProcessEngine]:
    with closing(ProcessEngine(shared, 1, THREADS)) as made:
        yield made


@pytest.fixture(scope="module")
def two_workers(shared: SharedSplits) -> Iterator[ProcessEngine]:
    with closing(ProcessEngine(shared, 2, THREADS)) as made:
        yield made


@pytest.fixture(scope="module")
def concurrent(split: list[Data]) -> Iterator[ConcurrentEngine]:
    """Without a GPU: its steps are taken one by one, and nothing is waited for."""
    with closing(ConcurrentEngine(split, "cpu", THREADS, 2)) as made:
        yield made


@pytest.fixture(scope="module")
def ray(split: list[Data]) -> Iterator[Engine]:
    """Two slots on a local Ray, which was started while this process had passwords in its environment."""
    pytest.importorskip("ray")
    from sweeper.engine.ray import RayEngine

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"):
            patch.setenv(name, "canary")
        made = RayEngine(split, 2)
    with closing(made):
        yield made
    until(lambda: not ray_processes(), "the processes of a local Ray to end")


@pytest.fixture(scope="module", params=["serial", "one_worker", "two_workers", "concurrent", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each kind of engine in turn; a test leaves it idle."""
    made: Engine = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def apart(engine: Engine, split: list[Data], monkeypatch: pytest.MonkeyPatch) -> Callable[[RunConfig], TrainResult]:
    """Trains a configuration without an engine, by the captured step where the engine does."""

    def train_apart(config: RunConfig) -> TrainResult:
        captured = isinstance(engine, ConcurrentEngine) and config.split != "folds"
        monkeypatch.setattr("sweeper.training.start.is_captured", lambda config, images: captured)
        return finish(start(config, split))

    return train_apart


# --- the contract --------------------------------------------------------------------------------------


def test_events_of_a_training_come_in_order_and_end_in_its_result(engine: Engine):
    seen = train_all(engine, {7: quick(), 8: quick(epochs=2), 9: quick(epochs=1)})
    for key, epochs in {7: 3, 8: 2, 9: 1}.items():
        *steps, end = [e.what for e in seen if e.key == key]
        assert [step.epoch for step in steps] == list(range(1, epochs + 1))
        assert isinstance(end, TrainResult)
        assert end.history == tuple(steps)


@pytest.mark.parametrize("changes", [{}, {"split": "folds", "folds": 2}], ids=["plain", "folds"])
def test_training_in_an_engine_gives_the_bits_of_training_without(
    engine: Engine, apart: Callable[[RunConfig], TrainResult], changes: dict[str, Any]
):
    configs = {0: quick(**changes), 1: quick(seed=1, **changes)}
    plain = {key: apart(config) for key, config in configs.items()}
    results = {e.key: e.what for e in train_all(engine, configs) if isinstance(e.what, TrainResult)}
    for key in configs:
        assert results[key].history_sha256 == plain[key].history_sha256
        assert results[key].weights_sha256 == plain[key].weights_sha256
    assert results[0].history_sha256 != results[1].history_sha256


def test_a_network_of_ones_own_gives_the_bits_of_training_without(engine: Engine, split: list[Data], tmp_path: Path):
    config = quick(model=f"{write(tmp_path, PLAIN)}:build", placement="bn-dropout", **{"model.width": 4})
    configs = {key: with_source(config.derive(**{"model.width": width})) for key, width in enumerate((4, 5))}
    results = {e.key: e.what for e in train_all(engine, configs) if isinstance(e.what, TrainResult)}
    for key, each in configs.items():
        plain = finish(start(each, split))
        assert results[key].history_sha256 == plain.history_sha256
        assert results[key].weights_sha256 == plain.weights_sha256


def test_a_network_whose_file_has_changed_ends_all_trainings_in_one_line(engine: Engine, tmp_path: Path):
    config = with_source(quick(model=f"{write(tmp_path, PLAIN)}:build", placement="bn"))
    write(tmp_path, PLAIN + "# changed\n")
    (end,) = train_all(engine, {1: config})
    assert isinstance(end.what, UsageError)
    assert "net.py has changed since the run was recorded" in str(end.what)


def test_a_result_carries_its_xray(engine: Engine, apart: Callable[[RunConfig], TrainResult]):
    config = quick(placement="dropout-bn", epochs=1, batch_size=16)
    (*_, end) = train_all(engine, {3: config})
    expected = apart(config)
    assert isinstance(end.what, TrainResult)
    assert end.what.xray is not None
    assert expected.xray is not None
    assert end.what.xray_failure == ""
    assert end.what.xray.csv() == expected.xray.csv()
    assert end.what.metrics() == expected.metrics()


@pytest.mark.parametrize("gone_on", [False, True], ids=["after-an-epoch", "in-an-epoch"])
def test_a_cancelled_training_hands_out_nothing_more_and_frees_its_slot(engine: Engine, gone_on: bool):
    engine.submit(1, quick(epochs=ENDLESS))
    events(engine, bool)
    if gone_on:
        engine.wait(0)
    engine.cancel(1)
    late = events(engine, lambda _: engine.free() == engine.slots)
    assert late == []
    seen = train_all(engine, {2: quick(epochs=1)})
    assert {e.key for e in seen} == {2}


@pytest.mark.parametrize("lr", [30.0, 1e9], ids=["runaway", "nan"])
def test_a_training_that_diverges_is_an_event(engine: Engine, lr: float):
    (event,) = train_all(engine, {4: quick(lr=lr)})
    assert event.key == 4
    assert isinstance(event.what, Diverged)
    assert "lower lr" in str(event.what)
    assert engine.free() == engine.slots


def test_any_error_of_a_training_is_an_event_in_one_line(engine: Engine):
    (event,) = train_all(engine, {5: quick(device="cuda:99")})
    assert isinstance(event.what, TrainingError)
    assert len(str(event.what).splitlines()) == 1
    assert engine.free() == engine.slots


def test_free_counts_the_slots_that_no_training_holds(engine: Engine):
    for key in range(engine.slots):
        assert engine.free() == engine.slots - key
        engine.submit(key, quick(epochs=1))
    assert engine.free() == 0
    events(engine, lambda seen: ends(seen, engine.slots))
    assert engine.free() == engine.slots


def test_an_idle_engine_has_no_events(engine: Engine):
    assert engine.wait(SOON) == []


def test_a_held_training_stands_still_until_the_next_wait(engine: Engine):
    engine.submit(1, quick(epochs=ENDLESS))
    first = events(engine, bool)
    engine.hold()
    until(lambda: not any(map(computes, descendants())), "the workers to stand still")
    later = events(engine, lambda seen: len(seen) >= 4)  # on Ray, two of them from before
    engine.cancel(1)
    assert [e.what.epoch for e in first + later] == list(range(1, 1 + len(first + later)))
    assert events(engine, lambda _: engine.free() == engine.slots) == []


def test_a_held_training_can_be_cancelled(engine: Engine):
    engine.submit(1, quick(epochs=ENDLESS))
    events(engine, bool)
    engine.hold()
    engine.cancel(1)
    assert events(engine, lambda _: engine.free() == engine.slots) == []
    assert {e.key for e in train_all(engine, {2: quick(epochs=1)})} == {2}


def test_an_engine_that_gave_its_memory_back_trains_again(engine: Engine):
    engine.submit(1, quick(epochs=ENDLESS))
    events(engine, bool)
    engine.hold()
    engine.release()
    assert events(engine, lambda _: engine.free() == engine.slots) == []
    assert {e.key for e in train_all(engine, {1: quick(epochs=2)})} == {1}


def test_the_number_of_workers_is_changed_while_they_train(shared: SharedSplits):
    with closing(ProcessEngine(shared, 1, THREADS)) as engine:
        engine.submit(1, quick(epochs=ENDLESS))
        engine.resize(2)
        assert engine.free() == 1
        engine.submit(2, quick(epochs=1))
        events(engine, lambda seen: {e.key for e in seen} == {1, 2})
        engine.resize(1)
        events(engine, ends)
        assert engine.free() == 0
        engine.cancel(1)
        events(engine, lambda _: engine.free() == 1)


# --- tasks on Ray --------------------------------------------------------------------------------------


def ray_processes() -> dict[psutil.Process, str]:
    """The processes of a local Ray, its workers among them, each with its command."""
    named = {process: " ".join(command).rstrip() for process, command in descendants().items()}
    ours = {p: command for p, command in named.items() if "forkserver" not in command}  # which is told where Ray lies
    return {p: command for p, command in ours.items() if "site-packages/ray/" in command or command.startswith("ray::")}


def trainer(key: int) -> psutil.Process:
    """The worker that trains `key`: Ray names a process after its task."""
    (found,) = [p for p, command in ray_processes().items() if command == f"ray::trial {key}"]
    return found


def test_a_killed_ray_worker_is_an_event_and_the_other_training_goes_on(ray: Engine):
    lost, steps = lost_one(ray, lambda: trainer(1).kill())
    assert lost.key == 1
    assert isinstance(lost.what, WorkerLost)
    assert str(lost.what) == "the Ray worker process on 127.0.0.1 died; the node may be out of memory"
    assert steps == [1, 2, 3]
    ray.cancel(2)


def test_a_ray_worker_gets_the_file_of_a_network_with_its_task(ray: Engine, tmp_path: Path):
    (tmp_path / "home").mkdir()
    text = "from pathlib import Path\nassert Path(__file__).parent.name != 'home', 'not carried'\n"
    file = write(tmp_path / "home", text + PLAIN)
    (*_, end) = train_all(ray, {1: with_source(quick(model=f"{file}:build", placement="bn", epochs=1))})
    assert isinstance(end.what, TrainResult), end.what


def test_a_ray_training_waits_for_a_driver_that_stands_still(ray: Engine):
    from sweeper.engine.ray import AHEAD

    ray.submit(1, quick(epochs=ENDLESS))
    seen = events(ray, bool)
    waiting = trainer(1)
    until(lambda: not computes(waiting), "the training to wait")
    ray.cancel(1)
    until(lambda: "ray::trial 1" not in ray_processes().values(), "the task to end")
    assert len(seen) == 1
    assert AHEAD == 2


def test_a_local_ray_listens_on_loopback_alone_and_has_no_password(ray: Engine):
    ray.submit(1, quick(epochs=ENDLESS))
    events(ray, bool)
    processes = ray_processes()
    assert {"gcs_server", "raylet", trainer(1).name()} <= {p.name() for p in processes}
    listening = {c.laddr.ip for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    environments = [p.environ() for p in processes]
    assert "canary" not in str(environments)
    assert all(e.get("RAY_AUTH_TOKEN") for e in environments if "RAY_JOB_ID" in e)
    assert "RAY_AUTH_TOKEN" not in os.environ
    ray.cancel(1)


STRANGER = """
import sys, ray
from ray._private import ray_constants

ray_constants.ENABLE_RAY_CLUSTER = False  # else it does not find a cluster on loopback
ray.init(address=sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False, logging_level="ERROR")
print("ran", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


def test_nobody_runs_code_on_a_local_ray_without_its_token(ray: Engine, alone: dict[str, str], tmp_path: Path):
    import ray as library

    address = library.get_runtime_context().gcs_address  # type: ignore[no-untyped-call]
    (raylet,) = [p for p in ray_processes() if p.name() == "raylet"]
    tokens = {"ours": raylet.environ()["RAY_AUTH_TOKEN"], "none": "", "another": 40 * "x"}
    strangers = {
        name: subprocess.Popen(
            [sys.executable, "-c", STRANGER, address],
            env=alone
            | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token" if token else "disabled"}
            | ({"RAY_AUTH_TOKEN": token} if token else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, token in tokens.items()
    }  # at the same time, as Ray tries for 20 s
    said = {name: stranger.communicate(timeout=60) for name, stranger in strangers.items()}
    assert {name: out for name, (out, _) in said.items()} == {"ours": "ran 42\n", "none": "", "another": ""}, said
    assert all("token authentication" in said[name][1] for name in ("none", "another"))


def test_a_cluster_that_asks_for_a_token_says_so(ray: Engine, monkeypatch: pytest.MonkeyPatch):
    import ray as library

    from sweeper.engine.ray_cluster import check_cluster

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it does not find a cluster on loopback
    with pytest.raises(ServiceUnreachable, match="this process has no token, or the wrong one"):
        check_cluster(library.get_runtime_context().gcs_address)


DRIVER = """
import psutil, torch
from sweeper.core.config import RunConfig
from sweeper.data.fashion import SAMPLE
from sweeper.training.images import Data, Images
from sweeper.engine.ray import RayEngine

images = Images(torch.zeros(64, 28, 28, 1, dtype=torch.uint8), torch.arange(64) % 10, SAMPLE.spec)
engine = RayEngine([Data(images, images)], 1)
engine.submit(0, RunConfig(model="small", epochs=10_000))
while not engine.wait(1):
    pass
names = "ray::trial 0", "raylet", "gcs_server"
mine = psutil.Process().children(recursive=True)
commands = {p.pid: p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p in mine and p.info["cmdline"]}
print(*(pid for pid, command in commands.items() if command[0].endswith(names)), flush=True)
while True:
    engine.wait(1)
"""


def test_a_local_ray_dies_when_its_driver_is_killed(alone: dict[str, str]):
    """Two helpers of Ray's own take a minute longer."""
    pytest.importorskip("ray")
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,  # a short path, for sockets
        subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=alone | {"TMPDIR": folder},
        ) as driver,
    ):
        assert driver.stdout is not None
        assert driver.stderr is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        alive = not any(map(gone, pids))
        driver.kill()
        assert driver.stdout.read() == ""
        assert driver.stderr.read() == ""
    assert alive
    assert len(pids) == 3
    until(lambda: all(map(gone, pids)), "Ray to end")
