"""A journal folder that one command trains into, and the orders that other commands send to it.

`reproduce` and `advise` have no study. Their orders are in a file next to their runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import filelock

from sweeper.core.errors import RecordError, StudyConflict, SweeperError
from sweeper.core.inside import lock_inside, read_inside, write_inside
from sweeper.study.control import PAUSE, RUN, STOP, WANTED, WORKERS, Orders

LOCK, ORDERS = ".lock", ".orders.json"
MOST: Final = 10_000  # bytes of orders


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other commands from training into the folder; the operating system releases the lock of a dead process.

    Orders to an earlier command are deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyConflict(f"another process is writing to {folder}. Wait for it or stop it.") from None
    except OSError as error:
        raise SweeperError(
            f"could not write to {folder} ({error.strerror}). Set SWEEPER_HOME to a writable folder."
        ) from None
    try:
        (folder / ORDERS).unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def is_held(journal: Path, name: str) -> bool:
    """Return True if a command is training into this journal folder."""
    if not (journal / name / LOCK).exists():
        return False
    try:
        with lock_inside(journal, f"{name}/{LOCK}", timeout=0):
            return False
    except filelock.Timeout:
        return True


def give(journal: Path, name: str, order: str, value: Any) -> None:
    """Add an order to the command that trains into this journal folder."""
    orders = json.dumps(_given(journal / name) | {order: value})
    write_inside(journal, f"{name}/{ORDERS}", orders.encode())


def orders(folder: Path) -> Orders:
    """Return the orders to the command that trains into the folder, without invalid ones."""
    given = _given(folder)
    wanted, workers = given.get(WANTED), given.get(WORKERS)
    return Orders(
        wanted if wanted in (PAUSE, STOP) else RUN, workers if isinstance(workers, int) and workers > 0 else None
    )


def _given(folder: Path) -> dict[str, Any]:
    try:
        given = json.loads(read_inside(folder, ORDERS, MOST))
    except (FileNotFoundError, RecordError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}
