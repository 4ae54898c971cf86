"""What every engine promises, and what only worker processes can."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, OutOfMemory, ServiceUnreachable, TrainingError, UsageError, WorkerLost
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR, read_idx
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.base import Engine, Event
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.sweep.driver import RETRIES
from sweeper.training.folds import finish
from sweeper.training.gpu.captured import Cooperative, cooperative
from sweeper.training.images import Data
from sweeper.training.start import start
from tests.support.descendants import descendants

THREADS = 1
SOON = 0.05  # seconds that one wait() may take
ENDLESS = 10_000  # epochs


@pytest.fixture(scope="module")
def split(tiny: Data) -> list[Data]:
    """Two folds of a few images; a run that is not cross-validation takes the first."""
    half = torch.arange(150)
    return [tiny, Data(tiny.train[half], tiny.val[half[:50]])]


@pytest.fixture(scope="module")
def shared(split: list[Data]) -> SharedSplits:
    return SharedSplits([data.arrays() for data in split])


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
def ray(split: list[Data], until: Any) -> Iterator[Engine]:
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


def quick(**changes: Any) -> RunConfig:
    fields = {"model": "small", "epochs": 3, "batch_size": 64, "augmentation": "crop-flip", "dataset": "sample"}
    return RunConfig.create(**fields | changes)


def events(engine: Engine, until: Callable[..., Any], done: Callable[[list[Event]], Any]) -> list[Event]:
    """What the engine hands out until `done` is true of it."""
    seen: list[Event] = []
    until(lambda: (seen.extend(engine.wait(SOON)), done(seen))[1], "events of an engine")
    return seen


def ends(seen: list[Event], count: int = 1) -> bool:
    """Whether that many trainings have ended."""
    return sum(not isinstance(e.what, EpochResult) for e in seen) >= count


def train_all(engine: Engine, until: Callable[..., Any], configs: dict[int, RunConfig]) -> list[Event]:
    """The events of the trainings, submitted as slots come free."""
    waiting, seen = dict(configs), []
    while sum(not isinstance(e.what, EpochResult) for e in seen) < len(configs):
        while waiting and engine.free():
            key = next(iter(waiting))
            engine.submit(key, waiting.pop(key))
        seen += events(engine, until, bool)
    return seen


@pytest.fixture
def apart(engine: Engine, split: list[Data], monkeypatch: pytest.MonkeyPatch) -> Callable[[RunConfig], TrainResult]:
    """Trains a configuration without an engine, by the captured step where the engine does."""

    def train_apart(config: RunConfig) -> TrainResult:
        captured = isinstance(engine, ConcurrentEngine) and config.split != "folds"
        monkeypatch.setattr("sweeper.training.start.is_captured", lambda config: captured)
        return finish(start(config, split))

    return train_apart


# --- the contract --------------------------------------------------------------------------------------


def test_events_of_a_training_come_in_order_and_end_in_its_result(engine: Engine, until: Any):
    seen = train_all(engine, until, {7: quick(), 8: quick(epochs=2), 9: quick(epochs=1)})
    for key, epochs in {7: 3, 8: 2, 9: 1}.items():
        *steps, end = [e.what for e in seen if e.key == key]
        assert [step.epoch for step in steps] == list(range(1, epochs + 1))
        assert isinstance(end, TrainResult)
        assert end.history == tuple(steps)


@pytest.mark.parametrize("changes", [{}, {"split": "folds", "folds": 2}], ids=["plain", "folds"])
def test_training_in_an_engine_gives_the_bits_of_training_without(
    engine: Engine, until: Any, apart: Callable[[RunConfig], TrainResult], changes: dict[str, Any]
):
    configs = {0: quick(**changes), 1: quick(seed=1, **changes)}
    plain = {key: apart(config) for key, config in configs.items()}
    results = {e.key: e.what for e in train_all(engine, until, configs) if isinstance(e.what, TrainResult)}
    for key in configs:
        assert results[key].history_sha256 == plain[key].history_sha256
        assert results[key].weights_sha256 == plain[key].weights_sha256
    assert results[0].history_sha256 != results[1].history_sha256


def test_a_result_carries_its_xray(engine: Engine, until: Any, apart: Callable[[RunConfig], TrainResult]):
    config = quick(placement="dropout-bn", epochs=1, batch_size=16)
    (*_, end) = train_all(engine, until, {3: config})
    expected = apart(config)
    assert isinstance(end.what, TrainResult)
    assert end.what.xray is not None
    assert expected.xray is not None
    assert end.what.xray_failure == ""
    assert end.what.xray.csv() == expected.xray.csv()
    assert end.what.metrics() == expected.metrics()


@pytest.mark.parametrize("gone_on", [False, True], ids=["after-an-epoch", "in-an-epoch"])
def test_a_cancelled_training_hands_out_nothing_more_and_frees_its_slot(engine: Engine, until: Any, gone_on: bool):
    engine.submit(1, quick(epochs=ENDLESS))
    events(engine, until, bool)
    if gone_on:
        engine.wait(0)
    engine.cancel(1)
    late = events(engine, until, lambda _: engine.free() == engine.slots)
    assert late == []
    seen = train_all(engine, until, {2: quick(epochs=1)})
    assert {e.key for e in seen} == {2}


@pytest.mark.parametrize("lr", [30.0, 1e9], ids=["runaway", "nan"])
def test_a_training_that_diverges_is_an_event(engine: Engine, until: Any, lr: float):
    (event,) = train_all(engine, until, {4: quick(lr=lr)})
    assert event.key == 4
    assert isinstance(event.what, Diverged)
    assert "lower lr" in str(event.what)
    assert engine.free() == engine.slots


def test_any_error_of_a_training_is_an_event_in_one_line(engine: Engine, until: Any):
    (event,) = train_all(engine, until, {5: quick(device="cuda:99")})
    assert isinstance(event.what, TrainingError)
    assert len(str(event.what).splitlines()) == 1
    assert engine.free() == engine.slots


def test_free_counts_the_slots_that_no_training_holds(engine: Engine, until: Any):
    for key in range(engine.slots):
        assert engine.free() == engine.slots - key
        engine.submit(key, quick(epochs=1))
    assert engine.free() == 0
    events(engine, until, lambda seen: ends(seen, engine.slots))
    assert engine.free() == engine.slots


def test_an_idle_engine_has_no_events(engine: Engine):
    assert engine.wait(SOON) == []


def children() -> set[int]:
    """Processes that this one has started, without multiprocessing's own helper."""
    return {child.pid for child in mp.active_children() if child.pid}


@pytest.mark.parametrize("kind", [SerialEngine, ProcessEngine])
def test_close_in_mid_training_leaves_no_child_process(kind: type, split: list[Data], shared: SharedSplits, until: Any):
    before = children()
    engine = SerialEngine(split, THREADS) if kind is SerialEngine else ProcessEngine(shared, 1, THREADS)
    engine.submit(0, quick(epochs=ENDLESS))
    events(engine, until, bool)
    mine = children() - before
    engine.close()
    assert len(mine) == (kind is ProcessEngine)
    assert not [pid for pid in mine if psutil.pid_exists(pid)]


# --- trainings side by side on a GPU --------------------------------------------------------------------


def test_out_of_memory_lets_half_as_many_advance(split: list[Data], monkeypatch: pytest.MonkeyPatch):
    """The device holds three; the driver submits again what did not fit, as it promises, at most twice."""
    engine = ConcurrentEngine(split, "cpu", THREADS, 8)

    def small_device(config: RunConfig, data: Data, beside: Callable[[], int]) -> Cooperative:
        if beside() >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (yield from cooperative(config, data, beside))

    monkeypatch.setattr("sweeper.training.start.cooperative", small_device)
    attempts, results = Counter[int](), set()
    for key in range(8):
        engine.submit(key, quick(epochs=1, seed=key))
    lost: list[int] = []
    while len(results) < 8:
        while lost and engine.free():
            engine.submit(lost[0], quick(epochs=1, seed=lost.pop(0)))
        for event in engine.wait(SOON):
            if isinstance(event.what, OutOfMemory):
                attempts[event.key] += 1
                lost.append(event.key)
            elif isinstance(event.what, TrainResult):
                results.add(event.key)
    assert max(attempts.values()) <= RETRIES
    assert 1 <= engine.slots < 4
    assert engine.free() == engine.slots


# --- worker processes ----------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether the process has ended, whether or not anybody took note."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_pid(engine: ProcessEngine, key: int) -> int:
    pid = next(w.process.pid for w in engine._workers if w.key == key)
    assert pid is not None
    return pid


def test_a_killed_worker_is_an_event_and_the_other_training_goes_on(two_workers: ProcessEngine, until: Any):
    two_workers.submit(1, quick(epochs=ENDLESS))
    two_workers.submit(2, quick(epochs=ENDLESS))
    seen = events(two_workers, until, lambda seen: {e.key for e in seen} == {1, 2})
    os.kill(worker_pid(two_workers, 1), signal.SIGKILL)
    seen += events(two_workers, until, ends)
    lost = [e for e in seen if not isinstance(e.what, EpochResult)]
    assert [e.key for e in lost] == [1]
    assert isinstance(lost[0].what, WorkerLost)
    assert "SIGKILL" in str(lost[0].what)
    assert two_workers.free() == 1

    later = events(two_workers, until, lambda seen: len(seen) >= 3)
    assert {e.key for e in later} == {2}
    last = max(e.what.epoch for e in seen if e.key == 2 and isinstance(e.what, EpochResult))
    assert [e.what.epoch for e in later] == [last + 1, last + 2, last + 3]

    two_workers.submit(3, quick(epochs=1))
    again = events(two_workers, until, ends)
    assert [type(e.what) for e in again if e.key == 3] == [EpochResult, TrainResult]
    two_workers.cancel(2)
    events(two_workers, until, lambda _: two_workers.free() == 2)


def test_a_training_given_to_a_worker_that_died_idle_is_lost_not_forgotten(two_workers: ProcessEngine, until: Any):
    first = psutil.Process(next(w.process.pid for w in two_workers._workers if w.key is None))
    first.kill()
    until(lambda: gone(first.pid), "a worker to die")
    two_workers.submit(6, quick(epochs=1))
    (event,) = events(two_workers, until, ends)
    assert event.key == 6
    assert isinstance(event.what, WorkerLost)
    assert [type(e.what) for e in train_all(two_workers, until, {6: quick(epochs=1)})] == [EpochResult, TrainResult]


# --- tasks on Ray --------------------------------------------------------------------------------------


def ray_processes() -> dict[psutil.Process, str]:
    """Those of a local Ray, its workers among them, each with its command."""
    named = {process: " ".join(command).rstrip() for process, command in descendants().items()}
    ours = {p: command for p, command in named.items() if "forkserver" not in command}  # which is told where Ray lies
    return {p: command for p, command in ours.items() if "site-packages/ray/" in command or command.startswith("ray::")}


def trainer(key: int) -> psutil.Process:
    """The worker that trains `key`: Ray names a process after its task."""
    (found,) = [p for p, command in ray_processes().items() if command == f"ray::trial {key}"]
    return found


def test_a_killed_ray_worker_is_an_event_and_the_other_training_goes_on(ray: Engine, until: Any):
    ray.submit(1, quick(epochs=ENDLESS))
    ray.submit(2, quick(epochs=ENDLESS))
    seen = events(ray, until, lambda seen: {e.key for e in seen} == {1, 2})
    trainer(1).kill()
    seen += events(ray, until, ends)
    lost = [e for e in seen if not isinstance(e.what, EpochResult)]
    assert [e.key for e in lost] == [1]
    assert isinstance(lost[0].what, WorkerLost)
    assert str(lost[0].what) == "the Ray worker process died; its node may be out of memory"
    assert ray.free() == 1
    last = max(e.what.epoch for e in seen if e.key == 2 and isinstance(e.what, EpochResult))
    later = events(ray, until, lambda seen: len(seen) >= 3)
    assert [e.what.epoch for e in later] == [last + 1, last + 2, last + 3]
    ray.cancel(2)


def test_a_ray_training_waits_for_a_driver_that_stands_still(ray: Engine, until: Any):
    from sweeper.engine.ray import AHEAD

    ray.submit(1, quick(epochs=ENDLESS))
    seen = events(ray, until, bool)
    waiting = trainer(1)
    until(lambda: idles(waiting), "the training to wait")
    ray.cancel(1)
    until(lambda: "ray::trial 1" not in ray_processes().values(), "the task to end")
    assert len(seen) == 1
    assert AHEAD == 2


def idles(process: psutil.Process) -> bool:
    """Whether the process computes nothing for a while."""
    before = process.cpu_times().user
    return process.cpu_percent(0.3) < 20 and process.cpu_times().user - before < 0.1


def test_a_local_ray_listens_on_loopback_alone_and_has_no_password(ray: Engine, until: Any):
    ray.submit(1, quick(epochs=ENDLESS))
    events(ray, until, bool)
    processes = ray_processes()
    assert {"gcs_server", "raylet", trainer(1).name()} <= {p.name() for p in processes}
    listening = {c.laddr.ip for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening
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

    from sweeper.engine.ray import _local

    address = library.get_runtime_context().gcs_address  # type: ignore[no-untyped-call]
    tokens = {
        "ours": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": str(_local()["RAY_AUTH_TOKEN"])},
        "none": {"RAY_AUTH_MODE": "disabled"},
        "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 40 * "x"},
    }
    command = [sys.executable, "-c", STRANGER, address]
    strangers = {
        name: subprocess.Popen(
            command,
            env=alone | {"HOME": str(tmp_path)} | token,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, token in tokens.items()
    }  # at the same time, as Ray tries for 20 s
    said = {name: stranger.communicate(timeout=60) for name, stranger in strangers.items()}
    assert {name: out for name, (out, _) in said.items()} == {"ours": "ran 42\n", "none": "", "another": ""}, said
    assert all("token authentication" in said[name][1] for name in ("none", "another"))


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("127.0.0.1:1", ServiceUnreachable, "Ray cluster 127.0.0.1:1 cannot be joined (Connection refused)"),
        ("nohost.invalid:6379", ServiceUnreachable, "Ray cluster nohost.invalid:6379 cannot be joined ("),
        ("me:canary@127.0.0.1:1", UsageError, "Ray address '127.0.0.1:1': expected auto or HOST:PORT"),
        ("127.0.0.1", UsageError, "expected auto or HOST:PORT"),
        ("127.0.0.1:x", UsageError, "expected auto or HOST:PORT"),
        ("ray://127.0.0.1:10001", UsageError, "run the driver in the cluster: ray job submit"),
    ],
)
def test_a_ray_cluster_that_cannot_be_joined_is_one_line(split: list[Data], address: str, error: type, says: str):
    pytest.importorskip("ray")
    from sweeper.engine.ray import RayEngine

    with pytest.raises(error) as caught:
        RayEngine(split, 1, address=address)
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_host_that_is_no_ray_cluster_is_given_up(split: list[Data], monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    from sweeper.engine import ray as engine
    from sweeper.engine.ray import RayEngine

    monkeypatch.setattr(engine, "JOIN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServiceUnreachable, match="no answer within"):
        RayEngine(split, 1, address=f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "slots"),
    [
        ({"CPU": 12.0}, 1.0, 0.0, 12),
        ({"CPU": 12.0}, 5.0, 0.0, 2),
        ({"CPU": 12.0, "GPU": 1.0}, 1.0, 0.25, 4),
        ({"CPU": 0.3}, 0.1, 0.0, 3),
        ({"CPU": 12.0}, 1.0, 1.0, 1),
        ({}, 0.0, 0.0, 1),
    ],
)
def test_as_many_trainings_as_the_cluster_holds(resources: dict[str, float], cpus: float, gpus: float, slots: int):
    pytest.importorskip("ray")
    from sweeper.engine.ray import _room

    assert _room(resources, cpus, gpus) == slots


RAY_DRIVER = """
import psutil, torch
from sweeper.config import RunConfig
from sweeper.data import Data, Images
from sweeper.engine.ray import RayEngine

images = Images(torch.zeros(64, 28, 28, dtype=torch.uint8), torch.arange(64) % 10)
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


def test_a_local_ray_dies_when_its_driver_is_killed(alone: dict[str, str], until: Any):
    """Two helpers of Ray's own take a minute longer."""
    pytest.importorskip("ray")
    command = [sys.executable, "-c", RAY_DRIVER]
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,  # a short path, for sockets
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=alone | {"TMPDIR": folder}
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


DRIVER = """
import multiprocessing as mp, os, signal
import numpy as np
from sweeper.config import RunConfig
from sweeper.engine.processes import ProcessEngine
from sweeper.errors import WorkerLost
from sweeper.splits import Labelled, SharedSplits, Split

images = Labelled(np.zeros((64, 28, 28), np.uint8), np.arange(64) % 10)
engine = ProcessEngine(SharedSplits([Split(images, images)]), 1, 1)
for child in mp.active_children():
    os.kill(child.pid, signal.SIGINT)  # which a terminal sends to the whole group
seen = []
while not seen or isinstance(seen[-1].what, WorkerLost):
    if engine.free():
        engine.submit(0, RunConfig(model="small", epochs=10_000))
    seen += engine.wait(1)
print(type(seen[0].what).__name__, *(child.pid for child in mp.active_children()), flush=True)
while True:
    engine.wait(1)
"""


def test_a_worker_takes_the_most_folds_that_there_may_be(tiny: Data, until: Any):
    """Each file descriptor of theirs would be one of the 256 that the fork server takes."""
    few = Data(tiny.train.first(40), tiny.val.first(20)).arrays()
    with closing(ProcessEngine(SharedSplits([few] * 100), 1, THREADS)) as engine:
        config = quick(split="folds", folds=100, epochs=1, batch_size=40, model="small")
        (*_, end) = train_all(engine, until, {0: config})
    assert isinstance(end.what, TrainResult)
    assert len(end.what.fold_accuracies) == 100


@dataclass(frozen=True)
class Driver:
    """What became of a driver's one worker, which was sent SIGINT while it started."""

    first_event: str
    alive: bool
    workers: list[int]
    environments: str  # of the processes that the engine started


@pytest.fixture(scope="module")
def killed_driver(alone: dict[str, str]) -> Driver:
    """A driver that is killed while its worker trains."""
    command = [sys.executable, "-c", DRIVER]
    env = alone | {"MLFLOW_TRACKING_PASSWORD": "canary", "PGPASSWORD": "canary"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as driver:
        assert driver.stdout is not None
        event, *pids = driver.stdout.readline().split()
        workers = [int(pid) for pid in pids]
        alive = not any(map(gone, workers))
        environments = str([child.environ() for child in psutil.Process(driver.pid).children(recursive=True)])
        driver.kill()
    return Driver(event, alive, workers, environments)


def test_a_worker_that_is_still_starting_leaves_ctrl_c_to_the_driver(killed_driver: Driver):
    assert killed_driver.first_event == "EpochResult"


def test_no_password_is_in_the_environment_of_a_worker(killed_driver: Driver):
    assert "OMP_NUM_THREADS" in killed_driver.environments
    assert "canary" not in killed_driver.environments


def test_workers_die_when_their_driver_is_killed(killed_driver: Driver, until: Any):
    assert killed_driver.alive
    assert len(killed_driver.workers) == 1
    until(lambda: all(map(gone, killed_driver.workers)), "the workers to die")


class NotStarted:
    """Stands in for a worker process, and notes what one is given."""

    given: tuple[Any, ...] = ()

    def __init__(self, *, args: tuple[Any, ...], **_: Any) -> None:
        NotStarted.given = args

    def start(self) -> None: ...

    kill = join = start


def test_workers_are_given_shared_arrays_and_no_test_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mp.get_context("forkserver"), "Process", NotStarted)
    shared = SharedSplits(load(RunConfig(dataset="sample"), SAMPLE_DIR))
    ProcessEngine(shared, 1, THREADS).close()
    pipe, given, threads = NotStarted.given  # nothing more: no tracker, no study, no folder
    assert isinstance(pipe, Connection)
    assert threads == THREADS
    assert given is shared
    (only,) = given
    seen = {image.tobytes() for images in (only.train, only.val) for image in images.pixels}
    assert len(seen) > 6_000
    assert not seen & {image.tobytes() for image in read_idx(SAMPLE_DIR, SAMPLE.test[0])}
