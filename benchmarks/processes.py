"""Commands that a benchmark runs: their time, and the memory of all the processes that come of them.

A process belongs to a command if it carries the mark that the command was started with, so that daemons which left its
tree count as well. Memory is proportional (PSS): of a page that several processes share, each has its part. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MARK: Final = "BENCHMARK_MARK"
SAMPLE_SECONDS: Final = 0.5
SUBREAPER: Final = 36  # of prctl


class Ran(NamedTuple):
    """A command that has ended."""

    seconds: float
    started: float  # UNIX time
    peak_mib: float  # of the proportional memory of all its processes; 0 where it was not sampled
    first_mib: float  # the same of its first process alone
    output: str


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str], *, sample_memory: bool = True) -> Ran:
    """Run a command to its end, and end what it leaves running.

    Raises:
        SystemExit: it failed; the message ends with what it said last.
    """
    mark = uuid.uuid4().hex
    adopt_orphans()
    log = cwd / f"output-{mark[:6]}.txt"
    started, clock, peak, first = time.time(), time.perf_counter(), 0.0, 0.0
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **env, MARK: mark}, stdout=stream, stderr=subprocess.STDOUT
        )
        while sample_memory and process.poll() is None:
            sizes = {pid: pss_mib(pid) for pid in marked(mark)}
            peak, first = max(peak, sum(sizes.values())), max(first, sizes.get(process.pid, 0.0))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_SECONDS)
        code = process.wait()
    seconds = time.perf_counter() - clock
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _reap(mark)
    output = log.read_text(errors="replace")
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}; it said last:\n{output[-3000:]}")
    return Ran(seconds, started, peak, first, output)


def adopt_orphans() -> None:
    """Make what our children leave behind our own; where the system cannot, nothing."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def _reap(mark: str) -> None:
    """Wait for what the command left behind, so that nothing of it runs or writes any more."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] or any(marked(mark)):
            time.sleep(0.01)


def marked(mark: str) -> Iterator[int]:
    """The processes that were started with `mark`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                yield int(folder.name)


def pss_mib(pid: int) -> float:
    """Proportional set size of one process, MiB; 0 once it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
