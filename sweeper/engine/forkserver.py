"""Processes forked from a server that imports torch once for all of them."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final

from sweeper.core.errors import WorkerLost
from sweeper.engine.secrecy import environment, public

PRELOADED: Final = ["sweeper.engine.preloaded"]
FORKING: Final = ("auto", "processes")  # the engines that may need workers, by their names on the command line


@cache
def start_server() -> None:
    """Start the server, once per process, without waiting for it.

    Call this before any thread needs a variable that holds a secret: during the start, the environment has none.
    """
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    atexit.register(_kill_server)
    with environment(public()):
        resource_tracker.ensure_running()  # it would be started with the server, and unblock the signal
        # workers inherit the mask: Ctrl-C and a closed terminal reach the whole group, and the driver decides
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_server() -> None:
    """Kill the server with this process.

    It would end by itself, but it may still be importing, and whoever reads this process's output waits for both.
    """
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def running() -> bool:
    """Return True if this process has started the server."""
    return start_server.cache_info().currsize > 0


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the file of a script: a child would run it again, which breaks a script without a main guard.

    A module that was started with `python -m` is imported again in the child.
    """
    main = vars(sys.modules["__main__"])
    file = main.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main["__file__"] = file


class Child:
    """A process that runs `target(pipe, *args)`, and our end of its pipe.

    It ends when this process does, and at SIGTERM.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = mp.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(target, theirs, *args), daemon=True)
        with _main_hidden():
            self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """Return the next message that the child sent with `send`.

        Raises:
            WorkerLost: the child is dead.
        """
        try:
            return pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - from our own child
        except (EOFError, OSError):
            self._process.join()
            raise WorkerLost(_cause_of_death(self._process.exitcode)) from None

    def kill(self) -> None:
        """Kill the process and close the pipe."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def send(pipe: Connection, message: object) -> None:
    """Send a message, which is copied: `Connection.send` would share the memory of tensors."""
    pipe.send_bytes(pickle.dumps(message))


def _run(target: Callable[..., None], *args: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    target(*args)


def _die_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended with exit code {exit_code}"
