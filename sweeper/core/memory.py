"""Measure the memory that this process may still take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sweeper.core.cores import GROUPS, MEMBERSHIP, control_groups

FILES: Final = (  # of versions 2 and 1 of control groups: the limit, the use, and of that the files that can be dropped
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes that this machine has available, or that the limits of this process's control groups leave.

    Args:
        groups: where the control groups are mounted.
        membership: the file that names the groups of this process (man 7 cgroups).
    """
    import psutil  # which few commands need

    left = [_left(folder, *names) for folder in control_groups("memory", groups, membership) for names in FILES]
    return max(0, min([psutil.virtual_memory().available, *(free for free in left if free is not None)]))


def _left(folder: Path, most: str, used: str, droppable: str) -> int | None:
    """Return what the limit of one group leaves, if it has one."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or `max` for no limit
        of_files = dict(_numbers(folder / "memory.stat")).get(droppable, 0)
        return int((folder / most).read_text()) - int((folder / used).read_text()) + of_files
    return None


def _numbers(file: Path) -> Iterator[tuple[str, int]]:
    for line in file.read_text().splitlines():
        name, _, value = line.partition(" ")
        yield name, int(value)
