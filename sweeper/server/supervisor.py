"""A group of child processes that live and die together.

Each child has its own log, and its own session, so that Ctrl-C reaches it only through the group.
A watchdog, a few lines of shell, reads from a pipe. When this process ends, even by kill -9, the pipe closes and the
watchdog stops the children.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from sweeper.core.errors import Interrupted, SweeperError

POLL_SECONDS: Final = 0.1
TERM_SECONDS: Final = 5.0  # before a child that does not end is killed
DATABASE_SECONDS: Final = 60.0  # the same for a database, which first writes out its cache
HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The variables that every child inherits; it gets its secrets by name.
PASSED_ON: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
)  # fmt: skip
# Reads lines "SIGNAL TARGET" until one says "done". If the pipe ends without it, the writer died: signals the targets,
# and after 5 seconds kills those that are left, except a database.
WATCHDOG: Final = """
trap '' INT TERM HUP
while read -r name target; do
  [ "$name" = done ] && exit 0
  all="$all $name:$target"
done
for one in $all; do kill -s "${one%%:*}" -- "${one#*:}" 2>/dev/null; done
turn=0
while [ $turn -lt 50 ]; do
  left=
  for one in $all; do kill -s 0 -- "${one#*:}" 2>/dev/null && left=1; done
  [ "$left" ] || exit 0
  sleep 0.1
  turn=$((turn + 1))
done
for one in $all; do case $one in TERM:*) kill -s KILL -- "${one#*:}" 2>/dev/null;; esac; done
"""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a child: the few that every program needs, and `extra`.

    PYTHONSAFEPATH keeps Python from importing from its working directory.
    """
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed | {"PYTHONSAFEPATH": "1"} | dict(extra or {})


def as_user(user: int | None) -> dict[str, Any]:
    """Return the arguments of Popen that run a child as `user`; None is this process's."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


def run(command: Sequence[str | Path], task: str, variables: Mapping[str, str], user: int | None = None) -> None:
    """Run a program to its end.

    Raises:
        SweeperError: it failed; the message names `task` and ends with the last lines of its output.
    """
    done = subprocess.run(
        [*map(str, command)], check=False, capture_output=True, text=True, cwd="/", env=clean_environment(variables),
        start_new_session=True, **as_user(user),
    )  # fmt: skip
    if done.returncode != 0:
        raise SweeperError(f"{task} failed: {_last_lines(done.stderr + done.stdout)}")


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-600:]


@dataclass(frozen=True)
class Part:
    """One child process."""

    name: str
    process: subprocess.Popen[bytes]
    database: bool

    def signal(self) -> None:
        """Ask it to end: its process group, or only the postmaster of a database."""
        with contextlib.suppress(ProcessLookupError):
            if self.database:  # SIGINT: end the connections, write out, exit
                self.process.send_signal(signal.SIGINT)
            else:
                os.killpg(self.process.pid, signal.SIGTERM)

    def end(self) -> None:
        """Wait for its end for a limited time; then kill what is left of its process group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DATABASE_SECONDS if self.database else TERM_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGQUIT if self.database else signal.SIGKILL)
        self.process.wait()


class Group:
    """Children that stop together: on a signal, when one of them dies, or at the end of the block.

    Args:
        logs: Folder of the logs, created if missing; the previous log is kept as NAME.log.1.
        secrets: Words that no message may show.
    """

    def __init__(self, logs: Path, secrets: Sequence[str] = ()) -> None:
        self._logs, self._secrets = logs, [s for s in secrets if s]
        self._parts: list[Part] = []
        self._events: queue.SimpleQueue[Part | int] = queue.SimpleQueue()  # its put() may run in a signal handler
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=clean_environment(), start_new_session=True,
        )  # fmt: skip
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._signalled) for number in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(number)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        variables: Mapping[str, str],
        *,
        database: bool = False,
        user: int | None = None,
    ) -> None:
        """Start a child; `user` is the number of the user that it runs as, by default this process's."""
        log = self._logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=self._logs.parent, env=clean_environment(variables), start_new_session=True, **as_user(user),
            )  # fmt: skip
        part = Part(name, process, database)
        self._parts.append(part)
        self._tell_watchdog(f"INT {process.pid}" if database else f"TERM -{process.pid}")
        threading.Thread(target=self._wait, args=(part,), daemon=True).start()

    def _wait(self, part: Part) -> None:
        part.process.wait()
        self._events.put(part)

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.write(f"{line}\n".encode())
            self._watchdog.stdin.flush()

    def ready(self, name: str, healthy: Callable[[], bool], seconds: float) -> None:
        """Wait until `healthy()` returns True.

        Raises:
            SweeperError: a child died, or `name` is not healthy after `seconds`.
            Interrupted: a signal arrived.
        """
        deadline = time.monotonic() + seconds
        while not healthy():
            if time.monotonic() > deadline:
                raise SweeperError(f"{name} is not ready after {seconds:.0f} s. {self._end_of_log(name)}")
            with contextlib.suppress(queue.Empty):
                self._raise(self._events.get(timeout=POLL_SECONDS))

    def watch(self) -> None:
        """Wait until a signal arrives or a child dies.

        Raises:
            SweeperError: a child died; the message names it and shows the end of its log.
            Interrupted: a signal arrived.
        """
        self._raise(self._events.get())

    def _raise(self, event: Part | int) -> None:
        if isinstance(event, Part):
            code = event.process.returncode
            how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
            raise SweeperError(
                f"{event.name} stopped ({how}), so everything was stopped. {self._end_of_log(event.name)}"
            )
        raise Interrupted(event)

    def _end_of_log(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        shown = _last_lines(log.read_text(errors="replace"))
        for secret in self._secrets:
            shown = shown.replace(secret, "***")
        return f"{log} ends with: {shown}" if shown else f"{log} is empty."

    def stop(self) -> None:
        """Stop all children, databases last."""
        for is_database in (False, True):
            parts = [part for part in self._parts if part.database == is_database]
            for part in parts:
                part.signal()
            for part in parts:
                part.end()
        self._parts.clear()
        self._tell_watchdog("done")
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        self._watchdog.wait()
