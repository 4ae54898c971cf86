"""Calls in a helper process that has torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing

import psutil
import pytest

from sweeper.core.errors import ConfigError, WorkerLost
from sweeper.engine import aside
from sweeper.engine.aside import call, stream
from sweeper.engine.forkserver import start_server
from tests.support.called import Unpicklable, add, count, die, endless, hear_ctrl_c, leave, process, refuse
from tests.support.waiting import until


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a driver that has no torch, and has started what workers are forked from."""
    start_server()
    monkeypatch.setattr(aside, "here", lambda: False)


def test_a_call_is_made_where_torch_is(elsewhere: None):
    pid, torch = call(process)
    assert pid != os.getpid()
    assert torch
    assert call(add, 2, 3) == 5


def test_a_call_is_made_here_where_torch_is_loaded():
    assert call(process) == (os.getpid(), True)
    assert call(add, 2, 3) == 5


def test_a_call_is_made_here_until_there_is_a_server_to_fork_from(alone: dict[str, str]):
    code = """
from sweeper.engine.aside import here
from sweeper.engine.forkserver import start_server
before = here()
start_server()
print(before, here())
"""
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize("there", [True, False], ids=["aside", "here"])
def test_a_stream_yields_in_order_and_returns(request: pytest.FixtureRequest, there: bool):
    if there:
        request.getfixturevalue("elsewhere")
    steps = stream(count, 5)
    assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "done"


@pytest.mark.parametrize("there", [True, False], ids=["aside", "here"])
@pytest.mark.parametrize(("kind", "error"), [("ours", ConfigError), ("another", ValueError)])
def test_an_error_is_raised_as_it_is(request: pytest.FixtureRequest, there: bool, kind: str, error: type[Exception]):
    if there:
        request.getfixturevalue("elsewhere")
    with pytest.raises(error) as caught:
        call(refuse, kind)
    assert str(caught.value) in ("no such thing", "not that")
    if there:
        assert "in refuse" in caught.value.__notes__[0]  # for --debug


def test_an_error_that_cannot_be_sent_is_told(elsewhere: None):
    with pytest.raises(RuntimeError, match="Unpicklable: 1 and 2"):
        call(refuse, "unpicklable")
    assert str(Unpicklable(1, 2)) == "1 and 2"


def test_a_process_that_is_ended_is_an_error(elsewhere: None):
    for number, name in ((signal.SIGKILL, "SIGKILL; the machine may be out of memory"), (signal.SIGTERM, "SIGTERM")):
        with pytest.raises(WorkerLost, match=name):
            call(die, int(number))
    with pytest.raises(WorkerLost, match="exit code 5"):
        call(leave)


def test_ctrl_c_is_left_to_the_driver(elsewhere: None):
    assert call(hear_ctrl_c) == "goes on"


def test_closing_a_stream_ends_its_process(elsewhere: None):
    with closing(stream(endless)) as steps:
        pid = next(steps)
        assert psutil.pid_exists(pid)
    until(lambda: not psutil.pid_exists(pid), "the process to end")
