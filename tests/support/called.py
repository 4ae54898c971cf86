"""What `test_aside.py` calls in another process, which has to find it there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator

from sweeper.core.errors import ConfigError


class Unpicklable(Exception):
    """It cannot be made from what it says alone."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def process() -> tuple[int, bool]:
    return os.getpid(), "torch" in sys.modules


def add(one: int, two: int) -> int:
    return one + two


def count(upto: int) -> Generator[int, None, str]:
    yield from range(upto)
    return "done"


def refuse(kind: str) -> None:
    if kind == "unpicklable":
        raise Unpicklable(1, 2)
    raise ConfigError("no such thing") if kind == "ours" else ValueError("not that")


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def hear_ctrl_c() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "goes on"


def endless() -> Iterator[int]:
    while True:
        yield os.getpid()


def leave() -> None:
    os._exit(5)
