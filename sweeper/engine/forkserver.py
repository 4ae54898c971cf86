"""The process that workers are forked from. It imports torch once for all of them, while the driver imports its own."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing as mp
import os
import signal
from collections.abc import Iterator
from functools import cache
from multiprocessing import forkserver, resource_tracker
from typing import Final

from sweeper.engine.secrecy import no_secrets

PRELOADED: Final = ["sweeper.engine.preloaded"]
FORKING: Final = (None, "auto", "processes")  # the engines that may need workers, by their names on the command line


@cache
def start_server() -> None:
    """Start the process that workers are forked from, once in the life of this process, and do not wait for it.

    To be called before any thread needs a variable that holds a secret: for the moment of the start there is none.
    """
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    atexit.register(_end_server)
    with no_secrets():
        resource_tracker.ensure_running()  # it would be started with the server, and unblock the signal
        with _ctrl_c_blocked():  # workers inherit it: Ctrl-C reaches the whole group, and the driver decides
            forkserver.ensure_running()


def _end_server() -> None:
    """Kill the server with this process. It would end by itself, but it may be importing still, and whoever reads what
    this process prints waits for the end of both."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
