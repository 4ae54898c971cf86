"""Commands run in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.replication.claims.ledger import Ledger
from tests.replication.drawn import verified


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The ledger of a simulated world, with five seeds of each arm."""
    return verified(tmp_path_factory.mktemp("home"))


@pytest.fixture
def sweeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
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
