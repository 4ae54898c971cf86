"""Signals that end a command: SIGINT, SIGTERM, and SIGHUP where the command was not started with nohup."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sweeper.core.errors import Interrupted


class Signals:
    """Note SIGINT, SIGTERM and SIGHUP, and raise `Interrupted` only where it is safe.

    A second signal of the same kind ends the process at once. One of another kind does not: after Ctrl-C on
    `mlflow run` this process gets SIGINT, and SIGTERM from MLflow a quarter of a second later. The first signal decides
    the exit code.

    The context may be entered again within itself: a command's signals are also its driver's.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._may_raise = False
        self._depth = 0
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> Signals:
        self._depth += 1
        if self._depth == 1:
            with contextlib.suppress(ValueError):  # another thread than the main one handles no signals
                self._before = [(s, signal.signal(s, self._handle)) for s in _ending()]
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before:
                signal.signal(number, handler)
            self._before = []

    def _handle(self, number: int, _: FrameType | None) -> None:
        again = number in self._received
        self._received.append(number)
        if again:
            signal.signal(self._received[0], signal.SIG_DFL)
            signal.raise_signal(self._received[0])
        if self._may_raise and len(self._received) == 1:  # else it would interrupt the end of the command
            raise Interrupted(number)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._received:
            raise Interrupted(self._received[0])

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within the block, a signal raises `Interrupted` at once. One that came before raises it here."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False


def _ending() -> Iterator[int]:
    """Yield the signals that end a command. A SIGHUP that is ignored already, as by nohup, stays ignored."""
    yield from (signal.SIGINT, signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP
