"""The process that workers are forked from: it imports torch once for all of them, and the driver need not.

What its children do first, and how they may have ended, is here too.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from functools import cache
from multiprocessing import forkserver, resource_tracker
from typing import Final

from sweeper.engine.secrecy import no_secrets

PRELOADED: Final = ["sweeper.engine.preloaded"]
FORKING: Final = ("auto", "processes")  # the engines that may need workers, by their names on the command line


@cache
def start_server() -> None:
    """Start the process that workers are forked from, once in the life of this process, and do not wait for it.

    To be called before any thread needs a variable that holds a secret: for the moment of the start there is none.
    """
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    atexit.register(_end_server)
    with no_secrets():
        resource_tracker.ensure_running()  # it would be started with the server, and unblock the signal
        with _terminal_blocked():  # workers inherit it: these signals reach the whole group, and the driver decides
            forkserver.ensure_running()


def _end_server() -> None:
    """Kill the server with this process. It would end by itself, but it may be importing still, and whoever reads what
    this process prints waits for the end of both."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _terminal_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def running() -> bool:
    """Whether this process has started it."""
    return start_server.cache_info().currsize > 0


def follow_parent() -> None:
    """Let this process, a child of the server, end when the process does that asked for it, and at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def cause_of_death(exit_code: int | None) -> str:
    """What is known of a child that ended by itself, in words."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended with exit code {exit_code}"
