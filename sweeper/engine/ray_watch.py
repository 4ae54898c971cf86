"""Watch a Ray cluster from the driver, and warn when its head does not answer or no node has room."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Final

import ray

from sweeper.core.environment import Say
from sweeper.core.errors import ServiceUnreachable
from sweeper.core.text import counted

REACH_SECONDS: Final = 2.0  # for a connection
HEAD_SECONDS: Final = 30.0  # for the head to come back; Ray ends a process whose head is gone for 60 s
ROOM_SECONDS: Final = 60.0  # before we warn that runs are waiting; a worker that loads torch takes 10 to 30


class Watch:
    """Warns when the head node does not answer, and when no run in flight has started for long.

    Args:
        warn: prints a line for the user.
        needs: what a run needs, such as `{"CPU": 1.0, "GPU": 0.25}`.
    """

    def __init__(self, warn: Say, needs: Mapping[str, float]) -> None:
        self._warn, self._needs = warn, needs
        self._host, _, self._port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._gone_since: float | None = None
        self._waiting_since: float | None = None
        self._said = False

    def head_answers(self) -> bool:
        """Return True if the head accepts connections. Without it, most calls of Ray do not return.

        Raises:
            ServiceUnreachable: it has not answered for too long.
        """
        with contextlib.suppress(OSError):
            socket.create_connection((self._host.strip("[]"), int(self._port)), REACH_SECONDS).close()
            if self._gone_since is not None:
                self._warn("the Ray head node is back")
            self._gone_since = None
            return True
        head = f"the Ray head node {self._host}:{self._port}"
        if self._gone_since is None:
            self._gone_since = time.monotonic()
            self._warn(f"{head} does not answer: waiting up to {HEAD_SECONDS:g} s")
        elif time.monotonic() - self._gone_since > HEAD_SECONDS:
            raise ServiceUnreachable(
                f"{head} does not answer. Start the cluster again, then run the same command again to continue."
            )
        return False

    def see(self, in_flight: int, begun: int) -> None:
        """Warn if runs are in flight and none has started for some time."""
        now = time.monotonic()
        if begun or not in_flight or self._waiting_since is None:
            self._waiting_since, self._said = now, False
        elif not self._said and now - self._waiting_since > ROOM_SECONDS:
            self._said = True
            self._warn(
                f"{counted(in_flight, 'run')} waiting: no Ray node has started one for "
                f"{now - self._waiting_since:.0f} s. Each needs {self._needed()}."
            )

    def _needed(self) -> str:
        """Return what a run needs and how much of it is free: `1 CPU (0 of 4 free)`."""
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        in_all: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return " and ".join(
            f"{amount:g} {name} ({free.get(name, 0.0):g} of {in_all.get(name, 0.0):g} free)"
            for name, amount in self._needs.items()
            if amount > 0
        )
