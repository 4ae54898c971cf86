"""The Ray cluster that runs are trained on: one started on this machine, or one that this machine joins."""

from __future__ import annotations

import contextlib
import logging
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from sweeper.core.errors import ServiceUnreachable, UsageError
from sweeper.engine.secrecy import environment, public

REACH_SECONDS: Final = 2.0  # for a connection
JOIN_SECONDS: Final = 7.5  # to join the cluster; with the connection it stays below 10 s
CHARACTERS: Final = 300  # of a reason

NO_TOKEN: Final = ("InvalidAuthToken", "ray.exceptions.AuthenticationError")  # Ray says so, and tries again

JOIN: Final = """
import sys, ray
ray.init(address=sys.stdin.read(), log_to_driver=False, logging_level="ERROR")
"""


# --- start or join ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def local(cpus: int, gpus: float, store_bytes: int) -> Iterator[None]:
    """Start Ray on this machine, and stop it at the end of the block.

    It listens on loopback and requires a token. It has no dashboard, sends no usage statistics, and keeps its files in
    a temporary folder. No process in it gets a secret.

    Args:
        cpus: processors it may use.
        gpus: GPUs that one run needs.
        store_bytes: size of its object store.

    Raises:
        UsageError: this machine has fewer GPUs than a run needs.
    """
    variables = public() | {"RAY_AUTH_TOKEN": secrets.token_urlsafe(32), "RAY_USAGE_STATS_ENABLED": "0"}
    variables.pop("RAY_AUTH_MODE", None)  # Ray asks for a token unless this says otherwise
    folder = tempfile.mkdtemp(prefix="sweeper-ray-")  # a short path: sockets are made in it
    aside = ThreadPoolExecutor(1)  # in the main thread, Ray takes over SIGTERM. Its processes end with this one
    try:
        with _quiet(), environment(variables), _on_loopback():
            start = aside.submit(
                ray.init,
                address="local",
                num_cpus=cpus,
                object_store_memory=store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _temp_dir=folder,
            )
            start.result()
        if gpus > (found := resources().get("GPU", 0)):
            raise UsageError(
                f"gpus_per_trial={gpus:g}: Ray finds only {found:g} on this machine. Lower --gpus-per-trial, or name "
                "a cluster with --address."
            )
        yield
    finally:
        ray.shutdown()
        aside.shutdown()
        Config.initialize("")  # else this process would ask every later cluster for a token
        AuthenticationTokenLoader.instance().reset_cache()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Join a running cluster; at the end of the block, only our tasks end. Call `check_cluster` first."""
    with _quiet(), ThreadPoolExecutor(1) as aside:  # in the main thread, Ray takes over SIGTERM
        aside.submit(
            ray.init, address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
        ).result()
    try:
        yield
    finally:
        ray.shutdown()


def resources() -> dict[str, float]:
    """Return the total resources of the cluster, such as `{"CPU": 8.0, "GPU": 1.0}`."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that starts in the block listen on loopback alone, as it does by default on macOS and Windows."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from writing to stdout, and to stderr at a SIGTERM."""
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that nobody waits for any more
    ray_worker._worker_logs_enabled = False  # else it prints the death of a worker, which the driver reports itself
    logging.getLogger("ray").setLevel(logging.ERROR)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:  # Ray's C++ has put a handler before it that writes a stack
            signal.signal(signal.SIGTERM, handler)


# --- check before anything is created ------------------------------------------------------------------


def check_cluster(address: str) -> None:
    """Join the cluster from a process that can be killed: Ray tries for minutes and then ends its process.

    Raises:
        UsageError: a driver cannot join `address`.
        ServiceUnreachable: it cannot be joined within 10 s.
    """
    if address != "auto":
        _connect(address)
    command = [sys.executable, "-c", JOIN]
    try:
        done = subprocess.run(
            command, input=address, env=public(), capture_output=True, text=True, timeout=JOIN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        raise _not_joined(address, said, f"no answer within {JOIN_SECONDS:g} s") from None
    if done.returncode:
        raise _not_joined(address, done.stderr, (done.stderr.strip().splitlines() or ["Ray gives no reason"])[-1])


def _connect(address: str) -> None:
    """Connect to HOST:PORT, to detect an address where nobody listens right away.

    Raises:
        UsageError: it is not HOST:PORT.
        ServiceUnreachable: nobody listens there.
    """
    if address.startswith("ray://"):  # https://github.com/ray-project/ray/issues/43357: it will not be done
        raise UsageError(
            f"Ray address {_shown(address)!r}: Ray Client cannot stream results. Run sweeper in the cluster: "
            "ray job submit --address http://HOST:8265 -- sweeper optimize … --engine ray --address auto"
        )
    found = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address)
    if found is None:
        raise UsageError(f"Ray address {_shown(address)!r} is not valid. Use auto or HOST:PORT.")
    try:
        socket.create_connection((found[1], int(found[2])), REACH_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last two: such a port or host cannot be
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None


def _shown(address: str) -> str:
    """Return the address without a user and password, which it should not have."""
    return address.rpartition("@")[2][:80]


def _not_joined(address: str, said: str, reason: str) -> ServiceUnreachable:
    """The error of a cluster that answers; `said` is what Ray wrote to stderr."""
    if any(word in said for word in NO_TOKEN):
        return ServiceUnreachable(
            f"Ray cluster {_shown(address)} cannot be joined: this process has no token, or the wrong one. "
            "Set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from the head."
        )
    return _unreachable(address, reason)


def _unreachable(address: str, reason: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"Ray cluster {_shown(address)} cannot be joined ({reason[:CHARACTERS]}). Start it with `ray start --head`, or "
        "leave --address out."
    )
