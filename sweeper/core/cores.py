"""Count the processors that this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

GROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the number of processors this process may run on, or its CPU quota in whole processors, at least 1.

    Args:
        groups: where the control groups are mounted.
        membership: the file that names the groups of this process (man 7 cgroups).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (quota for folder in control_groups("cpu", groups, membership) for quota in _quota(folder))
    return max(1, int(min([allowed, *quotas])))


def control_groups(controller: str, groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """Yield the folders of this process's control groups that `controller` limits, and of those above them.

    Args:
        controller: such as cpu or memory.
        groups: where the control groups are mounted.
        membership: the file that names the groups of this process (man 7 cgroups).
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        mount = groups / controllers if controllers else groups
        for folder in (mount / group.lstrip("/"), *(mount / group.lstrip("/")).parents):
            if folder.is_relative_to(mount):
                yield folder


def _quota(group: Path) -> Iterator[float]:
    """The quota of one group, of version 2 or 1 of control groups, if it has one."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or `max` for no limit
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
