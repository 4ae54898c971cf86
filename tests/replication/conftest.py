"""Fixtures: a ledger of a simulated world, a place to reproduce in, and commands run in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.replication.articles.learnopencv import ARMS, PROTOCOLS
from sweeper.replication.claims.ledger import Ledger
from tests.replication.drawn import verified
from tests.replication.place import SMALL, TINY, Place

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The ledger of a simulated world, with five seeds of each arm."""
    return verified(tmp_path_factory.mktemp("home"))


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report whose page and pictures are empty: drawing them takes seconds."""
    monkeypatch.setattr("sweeper.replication.report_record.report", lambda *_: (b"page", b"figures"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None) -> Place:
    """A place where the protocol quick is a matter of tenths of seconds, on one thread."""
    monkeypatch.setitem(PROTOCOLS, "quick", TINY)
    for name, arm in SMALL.items():
        monkeypatch.setitem(ARMS, name, arm)
    for module in ("engine.choice", "replication.plan"):
        monkeypatch.setattr(f"sweeper.{module}.cores", lambda: 1)
    (tmp_path / "home").mkdir()
    return Place(tmp_path / "home")


@pytest.fixture
def sweeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder, on a terminal of 80 columns: its exit code, stdout and stderr."""
    for name in [n for n in os.environ if n.startswith(("SWEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # which main() would leave behind
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweeper", *argv])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0), *capsys.readouterr()

    return call
