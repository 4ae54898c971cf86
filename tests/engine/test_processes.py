"""Worker processes: their deaths, their ends, and what they are given."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import psutil
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import WorkerLost
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR, find, read_idx
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import Split, load
from sweeper.engine.processes import ProcessEngine
from sweeper.training.images import Data
from tests.support.engines import ENDLESS, THREADS, ends, events, gone, lost_one, quick, train_all
from tests.support.waiting import until

pytest_plugins = ["tests.support.engines"]


def children() -> set[int]:
    """The processes that this one has started, without multiprocessing's own helper."""
    return {child.pid for child in mp.active_children() if child.pid}


@pytest.fixture
def pids() -> set[int]:
    """The workers of the engine `workers`."""
    return set()


@pytest.fixture
def workers(shared: SharedSplits, pids: set[int]) -> Iterator[ProcessEngine]:
    """An engine with two workers."""
    before = children()
    with closing(ProcessEngine(shared, 2, THREADS)) as engine:
        pids |= children() - before
        yield engine


def test_a_killed_worker_is_an_event_and_the_other_training_goes_on(workers: ProcessEngine, pids: set[int]):
    lost, steps = lost_one(workers, lambda: os.kill(min(pids), signal.SIGKILL))
    assert isinstance(lost.what, WorkerLost)
    assert "SIGKILL" in str(lost.what)
    assert steps == [1, 2, 3]

    workers.submit(3, quick(epochs=1))
    again = events(workers, ends)
    assert [type(e.what) for e in again if e.key == 3] == [EpochResult, TrainResult]
    workers.cancel(3 - lost.key)
    events(workers, lambda _: workers.free() == 2)


def test_a_training_given_to_a_worker_that_died_idle_is_lost_not_forgotten(workers: ProcessEngine, pids: set[int]):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(map(gone, pids)), "the workers to die")
    workers.submit(6, quick(epochs=1))
    (event,) = events(workers, ends)
    assert event.key == 6
    assert isinstance(event.what, WorkerLost)
    assert [type(e.what) for e in train_all(workers, {6: quick(epochs=1)})] == [EpochResult, TrainResult]


def test_close_in_mid_training_leaves_no_child_process(workers: ProcessEngine, pids: set[int]):
    workers.submit(0, quick(epochs=ENDLESS))
    events(workers, bool)
    assert len(pids) == 2
    workers.close()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_worker_takes_the_most_folds_that_there_may_be(tiny: Data):
    """Each file descriptor of theirs would be one of the 256 that the fork server takes."""
    few = Data(tiny.train.first(40), tiny.val.first(20)).arrays()
    with closing(ProcessEngine(SharedSplits([few] * 100), 1, THREADS)) as engine:
        (*_, end) = train_all(engine, {0: quick(split="folds", folds=100, epochs=1, batch_size=40)})
    assert isinstance(end.what, TrainResult)
    assert len(end.what.fold_accuracies) == 100


DRIVER = """
import multiprocessing as mp, os, signal
import numpy as np
from sweeper.core.config import RunConfig
from sweeper.engine.processes import ProcessEngine
from sweeper.core.errors import WorkerLost
from sweeper.data.shared import SharedSplits
from sweeper.data.fashion import SAMPLE
from sweeper.data.images import Labelled
from sweeper.data.splits import Split

images = Labelled(np.zeros((64, 28, 28, 1), np.uint8), np.arange(64) % 10)
engine = ProcessEngine(SharedSplits([Split(images, images, SAMPLE.spec)]), 1, 1)
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


@dataclass(frozen=True)
class Driver:
    """The end of a driver whose one worker was sent SIGINT while it started."""

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


def test_workers_die_when_their_driver_is_killed(killed_driver: Driver):
    assert killed_driver.alive
    assert len(killed_driver.workers) == 1
    until(lambda: all(map(gone, killed_driver.workers)), "the workers to die")


def test_workers_are_given_shared_arrays_and_no_test_image(monkeypatch: pytest.MonkeyPatch):
    given: list[object] = []

    class NotStarted:
        def __init__(self, _: object, *args: object) -> None:
            given.extend(args)

        def kill(self) -> None: ...

    monkeypatch.setattr("sweeper.engine.processes.Child", NotStarted)
    shared = SharedSplits(load(RunConfig(dataset="sample"), find("sample")))
    ProcessEngine(shared, 1, THREADS).close()
    assert given == [shared, THREADS]  # nothing more: no tracker, no study, no folder
    only: Split = shared[0]
    assert len(shared) == 1
    seen = {image.tobytes() for images in (only.train, only.val) for image in images.pixels}
    assert len(seen) > 6_000
    assert not seen & {image.tobytes() for image in read_idx(SAMPLE_DIR, SAMPLE.test[0])}
