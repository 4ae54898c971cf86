"""A group of child processes: they are stopped together, whatever ends the group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.core.errors import Interrupted, SweeperError
from sweeper.server import supervisor
from sweeper.server.supervisor import Group, clean_environment

# A shell that has a child of its own, and says in a file when it has.
FAMILY = "sleep 1000 & echo $! > {file}; wait"
STUBBORN = "trap '' TERM; touch {file}; while true; do sleep 1; done"


def shell(script: str, file: Path) -> list[str]:
    return ["sh", "-c", script.format(file=file)]


def test_a_signal_ends_the_wait_and_then_every_child(tmp_path: Path, until: Callable[..., Any]):
    file = tmp_path / "child"
    before = signal.getsignal(signal.SIGTERM)
    with Group(tmp_path / "log") as group:
        group.start("family", shell(FAMILY, file), {})
        until(lambda: file.exists() and file.read_text(), "the grandchild")
        grandchild = psutil.Process(int(file.read_text()))
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            group.watch()
    assert stopped.value.exit_code == 143
    until(lambda: not grandchild.is_running(), "the grandchild to end")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_does_not_end_is_killed(
    tmp_path: Path, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(supervisor, "TERM_SECONDS", 0.1)
    others = psutil.Process().children()  # of earlier tests
    with Group(tmp_path / "log") as group:
        group.start("stubborn", shell(STUBBORN, tmp_path / "up"), {})
        until((tmp_path / "up").exists, "the child to start")
        mine = [child for child in psutil.Process().children() if child not in others]
        assert mine
    until(lambda: not any(child.is_running() for child in mine), "the child to be killed")


def test_a_child_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path):
    with Group(tmp_path / "log", ["hunter2"]) as group:
        group.start("brief", ["sh", "-c", "echo first; echo the password is hunter2; exit 3"], {})
        with pytest.raises(SweeperError) as died:
            group.ready("brief", lambda: False, 60)
    log = tmp_path / "log" / "brief.log"
    assert str(died.value) == (
        f"brief stopped (exit code 3), so everything was stopped. {log} ends with: first | the password is ***"
    )
    with Group(tmp_path / "log") as group:
        group.start("brief", ["true"], {})
        with pytest.raises(SweeperError, match=r"exit code 0.*brief[.]log is empty"):
            group.watch()
    assert "first" in (tmp_path / "log" / "brief.log.1").read_text()


def test_what_is_never_ready_is_given_up(tmp_path: Path):
    with Group(tmp_path / "log") as group:
        group.start("slow", ["sleep", "1000"], {})
        with pytest.raises(SweeperError, match="slow is not ready after 0 s"):
            group.ready("slow", lambda: False, 0)


HOLDER = """
import sys
from pathlib import Path
from sweeper.server.supervisor import Group
with Group(Path(sys.argv[1]) / "log") as group:
    group.start("family", ["sh", "-c", sys.argv[2]], {})
    group.start("database", ["sh", "-c", sys.argv[3]], {}, database=True)
    group.watch()
"""


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path, until: Callable[..., Any]):
    child, ended = tmp_path / "child", tmp_path / "ended"
    database = f"trap 'touch {ended}; exit' INT; touch {tmp_path}/up; while true; do sleep 0.1; done"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), FAMILY.format(file=child), database])
    until(lambda: child.exists() and child.read_text() and (tmp_path / "up").exists(), "the children")
    family = psutil.Process(holder.pid).children(recursive=True)
    assert len(family) >= 4  # the watchdog, two children, a grandchild
    holder.kill()
    holder.wait()
    until(lambda: not any(p.is_running() for p in family), "every process to end")
    assert ended.exists()  # the database was asked, not killed


def test_a_child_sees_few_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert "hunter2" not in clean_environment({"DATABASE_URL": "x"}).values()
    assert clean_environment({"DATABASE_URL": "x"})["DATABASE_URL"] == "x"
