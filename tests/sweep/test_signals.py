"""Signals that end a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from sweeper.core.errors import Interrupted
from sweeper.sweep.signals import Signals


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Restore the handler of SIGHUP."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
def test_a_closed_terminal_interrupts_with_exit_code_129():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Signals() as signals, pytest.raises(Interrupted) as caught, signals.raised():
        signal.raise_signal(signal.SIGHUP)
    assert (caught.value.exit_code, str(caught.value)) == (129, "stopped by SIGHUP")


@pytest.mark.usefixtures("hang_up")
def test_under_nohup_a_closed_terminal_does_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals, signals.raised():
        signal.raise_signal(signal.SIGHUP)
        signals.check()
