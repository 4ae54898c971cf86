"""Several trainings at once on a Ray cluster, each as one task that streams what the training yields.

    driver                                Ray                                     worker
    submit ──▶ a streaming task, queued until a node has the processors it needs ──▶ start(config, data)
    wait   ◀── the next object of every stream that has one                      ◀── EpochResult … TrainResult
    cancel ──▶ the task is interrupted, within an epoch too

The images are put into the object store once; the workers of a node read one copy. Ray repeats nothing
(`max_retries=0`): a worker or a node that is lost is an event, and the driver decides. A worker holds no credentials,
no database and no MLflow.

Where no address is given, Ray is started here: on loopback, with a token, without dashboard and usage statistics, its
files in a folder of its own. It ends with this process. A cluster that was joined is left as it was.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import ray
import ray.exceptions as failures
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.errors import OutOfMemory, ServiceUnreachable, TrainingError, UsageError, WorkerLost
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.splits import Split
from sweeper.engine.base import Event
from sweeper.engine.secrecy import no_secrets, public, secretive
from sweeper.training.images import Data

What = EpochResult | TrainResult | TrainingError | UsageError

AHEAD: Final = 2  # epochs that a training yields before it waits for the driver to take one
REACH_SECONDS: Final = 2.0  # for a connection
JOIN_SECONDS: Final = 7.5  # for what follows it; both together stay below 10 s
LOOK_SECONDS: Final = 5.0  # between two looks at how large the cluster is
QUEUED: Final = 2  # trainings beyond its room: an autoscaler adds nodes for what waits
STORE_BYTES: Final = 2**28  # of a local Ray's object store, beside the images: for weights on their way to the driver
CHARACTERS: Final = 300  # of a reason


class RayEngine:
    """Up to `slots` trainings, as many at once as the cluster has room for.

    Where the number is left to it, it follows a cluster that was joined as nodes come and go.

    To be made before any thread needs a variable that holds a secret: while a local Ray starts there is none.

    Args:
        data: what the trainings may see.
        slots: trainings in flight; None: as many as the cluster's resources hold, at least 1, and a few that wait.
        address: None for a Ray of our own, `auto` or HOST:PORT for a cluster that this machine is a part of.
        cpus: processors of a training, and threads of its computations; below 1 they are shared.
        gpus: GPUs of a training; below 1 they are shared.
        few: trainings in flight at most, however large the cluster is.
        checked: `check_cluster` has just joined the cluster at `address`; it takes seconds.

    Raises:
        ServiceUnreachable: there is no cluster at `address`, or it cannot be joined.
        UsageError: this machine lacks the GPUs that a training is to have.
    """

    def __init__(
        self,
        data: Sequence[Data],
        slots: int | None,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        few: int | None = None,
        checked: bool = False,
    ) -> None:
        splits = [d.arrays() for d in data]
        self._session = contextlib.ExitStack()
        if address is None:
            size = sum(array.nbytes for split in splits for array in split.arrays())
            self._session.enter_context(_started(max(cores(), math.ceil((slots or 0) * cpus)), size + STORE_BYTES))
        else:
            if not checked:
                check_cluster(address)
            self._session.enter_context(_joined(address))
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            held: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            if address is None and gpus > held.get("GPU", 0):
                raise UsageError(f"gpus per trial {gpus:g}: Ray finds {held.get('GPU', 0):g} GPUs on this machine")
            self._needs, self._few = (cpus, gpus), few or sys.maxsize
            self._queued = QUEUED if slots is None and address else 0
            self._look_at = time.monotonic() + LOOK_SECONDS
            self.slots = self._fitting(_room(held, cpus, gpus) if slots is None else slots)
            self._running: dict[int, ray.ObjectRefGenerator] = {}
            self._data = ray.put(splits)
            self._options = {
                "num_cpus": cpus,
                "num_gpus": gpus,
                "max_retries": 0,
                "num_returns": "streaming",
                "runtime_env": _without_secrets() if address else None,
                "_generator_backpressure_num_objects": AHEAD,
            }
            self._threads = max(1, int(cpus))
            undo.pop_all()

    def free(self) -> int:
        """How many more trainings may be in flight; a task that was cancelled gives way by itself."""
        return max(0, self._fitting(self.slots + self._queued) - len(self._running))

    def submit(self, key: int, config: RunConfig) -> None:
        """Begin a training, or queue it until a node has room for it."""
        task = _train.options(**self._options, name=f"trial {key}")
        self._running[key] = task.remote(config, self._data, self._threads)

    def wait(self, timeout: float) -> list[Event]:
        """The next event of each training that has one."""
        self._look()
        keys = {stream: key for key, stream in self._running.items()}
        streams = list(keys)
        if not streams or not ray.wait(streams, timeout=timeout)[0]:
            return []
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        events = [Event(keys[stream], _next(stream)) for stream in ready]
        for event in events:
            if not isinstance(event.what, EpochResult):
                del self._running[event.key]
        return events

    def _fitting(self, slots: int) -> int:
        return max(1, min(slots, self._few))

    def _look(self) -> None:
        """Follow the size of the cluster, where that is what decides."""
        if self._queued and time.monotonic() > self._look_at:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            self.slots = self._fitting(_room(resources, *self._needs))
            self._look_at = time.monotonic() + LOOK_SECONDS

    def cancel(self, key: int) -> None:
        """Interrupt the task."""
        if (stream := self._running.pop(key, None)) is not None:
            ray.cancel(stream)

    def close(self) -> None:
        """Cancel every task, and leave the cluster, or end it where it is ours."""
        self._running = {}  # the end of the session ends its tasks
        self._session.close()


def _room(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """How many trainings the resources hold at once, at least 1."""
    needs = [(resources.get(name, 0.0), need) for name, need in (("CPU", cpus), ("GPU", gpus)) if need > 0]
    return max(1, min((int(held / need + 1e-9) for held, need in needs), default=1))


# --- what a stream says ------------------------------------------------------------------------------


def _next(stream: ray.ObjectRefGenerator) -> What:
    """What the training of `stream` has come to; there is something."""
    try:
        what: What = ray.get(next(stream))
    except StopIteration:
        return WorkerLost("the Ray task ended without a result")
    except failures.RayError as error:
        return _explain(error)
    return what


def _explain(error: failures.RayError) -> TrainingError | UsageError:
    """What Ray says of a task that is gone, in one line."""
    reason = " ".join(str(error).split())[:CHARACTERS]
    match error:
        case failures.RayTaskError(cause=ModuleNotFoundError() as missing):
            return UsageError(f"a node of the Ray cluster: {missing}; install the driver's sweeper on every node")
        case failures.RuntimeEnvSetupError() | failures.TaskUnschedulableError():
            return UsageError(f"the Ray cluster cannot run a training: {reason}")
        case failures.OutOfMemoryError():
            return OutOfMemory(f"a node of the Ray cluster had no memory left: {reason}")
        case failures.WorkerCrashedError():
            return WorkerLost("the Ray worker process died; its node may be out of memory")
        case failures.NodeDiedError():
            return WorkerLost("the node of the Ray cluster that trained it is gone")
        case failures.ObjectLostError():
            return WorkerLost("a result was lost with the node of the Ray cluster that held it")
    return WorkerLost(f"Ray gave up the task: {type(error).__name__}: {reason}")


# --- in the worker -----------------------------------------------------------------------------------


@ray.remote
def _train(config: RunConfig, splits: list[Split], threads: int) -> Iterator[What]:
    """What the training yields, and as the last its result or its error."""
    for name in secretive():  # a node may have been started with some
        del os.environ[name]
    from sweeper.training.device import use_threads
    from sweeper.training.failures import explain
    from sweeper.training.start import start

    use_threads(threads)
    training = start(config, [Data.from_arrays(split) for split in splits])
    try:
        while True:
            yield next(training)
    except StopIteration as stop:
        yield stop.value
    except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, told to the driver
        yield explain(error)


# --- the session -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _started(cpus: int, store_bytes: int) -> Iterator[None]:
    """A Ray of our own, which ends with the block."""
    folder = tempfile.mkdtemp(prefix="sweeper-ray-")  # a short path: sockets are made in it
    try:
        with no_secrets(), _environment(_local()), _on_loopback(), _quiet():
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _temp_dir=folder,
            )
        yield
    finally:
        ray.shutdown()
        Config.initialize("")  # else this process went on to ask for the token, also those who know of none
        AuthenticationTokenLoader.instance().reset_cache()
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _local() -> dict[str, str | None]:
    """Variables for a local Ray, which asks for a token unless RAY_AUTH_MODE says otherwise.

    The token is drawn once in the life of this process, in which Ray keeps it.
    """
    return {
        "RAY_AUTH_MODE": None,
        "RAY_AUTH_TOKEN": secrets.token_urlsafe(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """A cluster that runs already; of it, only our tasks end with the block."""
    with _quiet():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def _without_secrets() -> dict[str, Any] | None:
    """For workers of a cluster, which get the variables of the job that this driver may be: none with a secret."""
    return {"env_vars": dict.fromkeys(secretive(), "")} if secretive() else None


PROBE: Final = """
import sys, ray
ray.init(address=sys.stdin.read(), log_to_driver=False, logging_level="ERROR")
"""


def check_cluster(address: str) -> None:
    """Join the cluster in another process, which can be ended: Ray tries for minutes, and then ends the process.

    Raises:
        UsageError: it is none that a driver can join.
        ServiceUnreachable: it cannot be joined within 10 s.
    """
    _reach(address)
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(
            command, input=address, env=public(), capture_output=True, text=True, timeout=JOIN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {JOIN_SECONDS:g} s") from None
    if done.returncode:
        raise _unreachable(address, (done.stderr.strip().splitlines() or ["Ray says nothing"])[-1])


def _reach(address: str) -> None:
    """Connect to the address, if it is one: a wrong one is then known at once.

    Raises:
        UsageError: it is none that a driver can join.
        ServiceUnreachable: nobody listens there.
    """
    if address == "auto":
        return
    if address.startswith("ray://"):  # https://github.com/ray-project/ray/issues/43357: it will not be done
        raise UsageError(
            f"Ray address {_shown(address)!r}: Ray's client carries no streams; run the driver in the cluster: "
            "ray job submit --address http://HOST:8265 -- sweeper optimize … --engine ray --address auto"
        )
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or not re.fullmatch(r"[\w.:\[\]-]+", address):
        raise UsageError(f"Ray address {_shown(address)!r}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def _shown(address: str) -> str:
    """The address without a user and password, which have no place in it."""
    return address.rpartition("@")[2][:80]


def _unreachable(address: str, reason: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"Ray cluster {_shown(address)} cannot be joined ({reason[:CHARACTERS]}); start it with `ray start --head`, or "
        "leave --address out"
    )


@contextlib.contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Within the block the variables have these values, or, with None, are not there."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Within the block, a Ray that starts listens on loopback alone, as it does by itself on macOS and Windows."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray as a library: it takes over neither SIGTERM nor stdout."""
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that nobody waits for any more
    ray_worker._worker_logs_enabled = False  # it prints the death of each worker, which the driver tells by itself
    logging.getLogger("ray").setLevel(logging.ERROR)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)
