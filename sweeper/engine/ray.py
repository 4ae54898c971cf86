"""Many runs at once on a Ray cluster, each as one task that streams what training yields.

    driver                                Ray                                     worker
    submit ──▶ a streaming task, queued until a node has the processors it needs ──▶ start(config, data)
    wait   ◀── the next object of every stream that has one                      ◀── EpochResult … TrainResult
    cancel ──▶ the task is interrupted, within an epoch too

A task first yields the address of its node, so that the driver knows which tasks wait for room, and where one was lost.
If a signal handler raises inside a call of Ray, the call ends in a SystemError, so the driver prevents that.

The images are put into the object store once; the workers of a node read one copy. The file of a user's own network
goes along with each task, so that no node needs it; a package must be installed there. Ray repeats nothing
(`max_retries=0`): a lost worker or node is an event, and the driver decides. A worker holds no credentials, no database
and no MLflow.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import ray
import ray.exceptions as failures
from ray.util import get_node_ip_address

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Say
from sweeper.core.errors import OutOfMemory, TrainingError, UsageError, WorkerLost, one_line
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.splits import Split
from sweeper.engine.base import Event
from sweeper.engine.carried import read_file, with_file
from sweeper.engine.ray_cluster import joined, local, resources
from sweeper.engine.ray_watch import Watch
from sweeper.engine.secrecy import secretive
from sweeper.training.images import Data

What = EpochResult | TrainResult | TrainingError | UsageError

AHEAD: Final = 2  # epochs that a run yields before it waits for the driver to take one
LOOK_SECONDS: Final = 5.0  # between two looks at the size of the cluster
QUEUED: Final = 2  # runs beyond its capacity: an autoscaler adds nodes for those that wait
STORE_BYTES: Final = 2**28  # of a local Ray's object store, besides the images: for weights on their way to the driver


class RayEngine:
    """Train up to `slots` runs, as many at once as the cluster has room for.

    Create it before any thread needs a variable that holds a secret: while a local Ray starts, the environment has
    none.

    Args:
        data: the images that the runs may see.
        slots: runs in flight. None takes as many as the cluster has room for, and follows a cluster that was
            joined as nodes come and go.
        address: `auto` or HOST:PORT of a running cluster, which `check_cluster` has joined; None starts a local Ray.
        cpus: CPUs per run, and threads of its computations; below 1 they are shared.
        gpus: GPUs per run; below 1 they are shared.
        few: runs in flight at most, however large the cluster is.
        warn: prints a warning: the head node does not answer, or runs are waiting for room.

    Raises:
        UsageError: this machine has fewer GPUs than a run needs.
    """

    interruptible = False

    def __init__(
        self,
        data: Sequence[Data],
        slots: int | None,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        few: int = sys.maxsize,
        warn: Say = lambda _: None,
    ) -> None:
        splits = [part.arrays() for part in data]
        with contextlib.ExitStack() as session:
            if address is None:
                images = sum(array.nbytes for split in splits for array in split.arrays())
                local_cpus = max(cores(), math.ceil((slots or 0) * cpus))
                session.enter_context(local(local_cpus, gpus, images + STORE_BYTES))
            else:
                session.enter_context(joined(address))
            self._data = ray.put(splits)
            self._session = session.pop_all()
        self._few = few
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._follows = address is not None and slots is None
        self._watch = Watch(warn, self._needs)
        self._look_at = 0.0
        self.slots = self._room() if slots is None else min(slots, few)
        self._running: dict[int, ray.ObjectRefGenerator] = {}
        self._nodes: dict[int, str] = {}  # that train, of the runs that have started
        self._threads = max(1, int(cpus))
        # workers of a cluster get the variables of the job that this driver may be: hide those with a secret
        hidden = {"env_vars": dict.fromkeys(secretive(), "")} if address and secretive() else None
        self._options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_retries": 0,
            "num_returns": "streaming",
            "runtime_env": hidden,
            "_generator_backpressure_num_objects": AHEAD,
        }

    def free(self) -> int:
        """Return how many more runs may be in flight; a cancelled task frees its CPUs by itself."""
        most = min(self._few, self.slots + QUEUED) if self._follows else self.slots
        return max(0, most - len(self._running))

    def submit(self, key: int, config: RunConfig) -> None:
        """Start a run, or queue it until a node has room for it.

        Raises:
            UsageError: the file of its network's factory is gone.
        """
        task = _train.options(**self._options, name=f"trial {key}")
        self._running[key] = task.remote(config, read_file(config), self._data, self._threads)

    def wait(self, timeout: float) -> list[Event]:
        """Return the next event of each run that has one.

        Raises:
            ServiceUnreachable: the head of the cluster is gone.
        """
        if time.monotonic() > self._look_at:
            self._look()
        keys = {stream: key for key, stream in self._running.items()}
        streams = list(keys)
        if not streams or not ray.wait(streams, timeout=timeout)[0]:
            return []
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        return [event for stream in ready if (event := self._event(keys[stream], stream))]

    def _event(self, key: int, stream: ray.ObjectRefGenerator) -> Event | None:
        """Return the next event of a stream that has one, or None if its run has just started."""
        what = _next(stream, self._nodes.get(key, "a node"))
        if isinstance(what, str):
            self._nodes[key] = what
            return None
        if not isinstance(what, EpochResult):
            self._forget(key)
        return Event(key, what)

    def _forget(self, key: int) -> ray.ObjectRefGenerator | None:
        self._nodes.pop(key, None)
        return self._running.pop(key, None)

    def _look(self) -> None:
        self._look_at = time.monotonic() + LOOK_SECONDS
        if not self._watch.head_answers():
            return
        self._watch.see(len(self._running), len(self._nodes))
        if self._follows:
            self.slots = self._room()

    def _room(self) -> int:
        return min(self._few, room(resources(), self._needs))

    def cancel(self, key: int) -> None:
        """Interrupt the task."""
        if (stream := self._forget(key)) is not None:
            ray.cancel(stream)

    def hold(self) -> None:
        """No-op: a run whose events nobody takes waits after a few epochs."""

    def release(self) -> None:
        """Interrupt every task."""
        for key in list(self._running):
            self.cancel(key)

    def resize(self, slots: int) -> None:
        """Keep up to `slots` runs in flight; the cluster decides how many have room."""
        self.slots = self._few = slots
        self._follows = False

    def close(self) -> None:
        """Cancel every task; leave the cluster, or end it if it was started here."""
        self._running = {}  # the end of the session ends its tasks
        self._session.close()


def room(cluster: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many runs fit into a cluster with these resources at once, at least 1."""
    return max(1, min((int(cluster.get(name, 0.0) / n + 1e-9) for name, n in needs.items() if n > 0), default=1))


def _next(stream: ray.ObjectRefGenerator, node: str) -> What | str:
    """Return the next object of a stream that has one, or why there is none; `node` trains it."""
    try:
        what: What | str = ray.get(next(stream))
    except StopIteration:
        return WorkerLost(f"the Ray task on {node} ended without a result")
    except failures.RayError as error:
        return _explain(error, node)
    return what


def _explain(error: failures.RayError, node: str) -> TrainingError | UsageError:
    """Explain in one line why Ray gave up a task on `node`."""
    reason = one_line(error)
    if missing := _missing(error):
        return UsageError(
            f"a node of the Ray cluster lacks a module: {missing}. Install the same sweeper on every node."
        )
    match error:
        case failures.RuntimeEnvSetupError() | failures.TaskUnschedulableError():
            return UsageError(f"the Ray cluster cannot run the task: {reason}")
        case failures.OutOfMemoryError():
            return OutOfMemory(f"Ray node {node} ran out of memory: {reason}")
        case failures.WorkerCrashedError():
            return WorkerLost(f"the Ray worker process on {node} died; the node may be out of memory")
        case failures.NodeDiedError():
            return WorkerLost(f"Ray node {node} died during the run")
        case failures.ObjectLostError():
            return WorkerLost("a result was lost with the Ray node that held it")
    return WorkerLost(f"Ray gave up the task: {type(error).__name__}: {reason}")


def _missing(error: failures.RayError) -> str | None:
    """Return `No module named 'sweeper'` where a node lacks a module; Ray wraps that error of unpickling as text."""
    if isinstance(error, failures.RayTaskError) and isinstance(error.cause, ModuleNotFoundError):
        return str(error.cause)
    found = re.search(r"No module named '[\w.]+'", str(error)) if isinstance(error, failures.RaySystemError) else None
    return found and found[0]


@ray.remote
def _train(config: RunConfig, code: bytes | None, splits: list[Split], threads: int) -> Iterator[What | str]:
    """In the worker: yield the node's address, what the training yields, and at the end its result or its error."""
    yield get_node_ip_address()  # type: ignore[no-untyped-call]
    for name in secretive():  # a node may have been started with some
        del os.environ[name]
    from sweeper.training.device import use_threads
    from sweeper.training.failures import explain
    from sweeper.training.start import start

    use_threads(threads)
    with with_file(config, code) as here:
        training = start(here, [Data.from_arrays(split) for split in splits])
        try:
            while True:
                yield next(training)
        except StopIteration as stop:
            yield stop.value
        except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, reported to the driver
            yield explain(error)
