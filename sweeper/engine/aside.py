"""What needs torch, called aside: in a process that has it already, so that this one need not load its own.

That process is forked from the server that workers are forked from: it too never sees a secret, does not hear Ctrl-C,
and ends with its parent. Where this process has torch, or has started no server, the call is made in it.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import pickle
import sys
import traceback
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from typing import Any, TypeVar, TypeVarTuple

from sweeper.core.errors import WorkerLost
from sweeper.engine.forkserver import cause_of_death, follow_parent, running

Ts = TypeVarTuple("Ts")
T = TypeVar("T")
Y = TypeVar("Y")

YIELDED, RETURNED, RAISED = range(3)


def call(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `function(*args)` returns; it, what it is given and what it returns are pickled, and need no torch for it.

    Raises:
        WorkerLost: the process that it was called in was ended. What the function raises is raised here.
    """
    steps = stream(_stepless, function, args)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def stream(function: Callable[[*Ts], Generator[Y, None, T]], *args: *Ts) -> Generator[Y, None, T]:
    """What `function(*args)` yields and returns, as `call` does; closing the generator ends it.

    It goes on while what it has yielded is looked at here.
    """
    if here():
        return (yield from function(*args))
    context = mp.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            try:
                what, value = pickle.loads(ours.recv_bytes())  # noqa: S301 - from our own child
            except (EOFError, OSError):
                process.join()
                raise WorkerLost(cause_of_death(process.exitcode)) from None
            if what == YIELDED:
                yield value
            elif what == RETURNED:
                result: T = value
                return result
            else:
                raise value
    finally:
        process.kill()
        process.join()
        ours.close()


def here() -> bool:
    """Whether a call is made in this process."""
    return "torch" in sys.modules or not running()


def _stepless(function: Callable[..., T], args: tuple[Any, ...]) -> Generator[None, None, T]:
    yield from ()
    return function(*args)


def _serve(pipe: Connection, function: Callable[..., Generator[Any, None, Any]], args: tuple[Any, ...]) -> None:
    """In the child: send what the function comes to."""
    follow_parent()
    steps = function(*args)
    try:
        while True:
            pipe.send_bytes(pickle.dumps((YIELDED, next(steps))))
    except StopIteration as stop:
        message = pickle.dumps((RETURNED, stop.value))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the call was made
        error.add_note("".join(traceback.format_exception(error)))
        message = _pickled(error)
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        pipe.send_bytes(message)


def _pickled(error: Exception) -> bytes:
    """The error as a message, or where it cannot be pickled, what it says."""
    try:
        pickle.loads(message := pickle.dumps((RAISED, error)))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - of many kinds
        return pickle.dumps((RAISED, RuntimeError(f"{type(error).__name__}: {error}")))
    return message
