"""Call functions that need torch in a helper process, so that this process need not load torch.

The helper is forked from the same server as the workers. It gets no secret, ignores Ctrl-C, and ends with its parent.
If this process has torch already, or has started no server, the call is made here.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from typing import Any, TypeVar, TypeVarTuple

from sweeper.engine.forkserver import Child, running, send

Ts = TypeVarTuple("Ts")
T = TypeVar("T")
Y = TypeVar("Y")

YIELDED, RETURNED, RAISED = range(3)


def call(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Return `function(*args)`; the function, its arguments and its result must be picklable without torch.

    Raises:
        WorkerLost: the helper process died. An exception of the function is raised here unchanged.
    """
    steps = stream(_no_steps, function, args)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def stream(function: Callable[[*Ts], Generator[Y, None, T]], *args: *Ts) -> Generator[Y, None, T]:
    """Like `call`, for a generator `function(*args)`; closing this one ends it.

    The helper process does not wait: it computes the next value while the last one is used here.
    """
    if here():
        return (yield from function(*args))
    child = Child(_serve, function, args)
    try:
        while True:
            kind, value = child.receive()
            if kind == RAISED:
                raise value
            if kind == RETURNED:
                result: T = value
                return result
            yield value
    finally:
        child.kill()


def here() -> bool:
    """Return True if calls are made in this process."""
    return "torch" in sys.modules or not running()


def _no_steps(function: Callable[..., T], args: tuple[Any, ...]) -> Generator[None, None, T]:
    yield from ()
    return function(*args)


def _serve(pipe: Connection, function: Callable[..., Generator[Any, None, Any]], args: tuple[Any, ...]) -> None:
    """In the helper: run the generator and send what it yields, returns or raises."""
    steps = function(*args)
    try:
        while True:
            send(pipe, (YIELDED, next(steps)))
    except StopIteration as stop:
        message: tuple[int, Any] = RETURNED, stop.value
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the call was made
        error.add_note("".join(traceback.format_exception(error)))
        message = RAISED, _picklable(error)
    with contextlib.suppress(BrokenPipeError):  # the caller is gone
        send(pipe, message)


def _picklable(error: Exception) -> Exception:
    """Return the error, or one with the same message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - of many kinds
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
