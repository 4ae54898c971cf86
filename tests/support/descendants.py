"""The processes that came of the tests' own."""

from __future__ import annotations

import contextlib

import psutil


def descendants() -> dict[psutil.Process, list[str]]:
    """The processes that came of this one and still run, each with its command line."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, or is a zombie
            found[process] = process.cmdline()
    return found


def computes(process: psutil.Process) -> bool:
    """Return False if the process computes nothing for a while, or is gone."""
    try:
        before = process.cpu_times().user
        return process.cpu_percent(0.3) >= 20 or process.cpu_times().user - before >= 0.1
    except psutil.NoSuchProcess:
        return False
