"""Commands in this process, and what they leave."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from sweeper.cli.main import main


class Answer(NamedTuple):
    """The exit code and the output of one command."""

    code: int
    out: str
    err: str


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command in this process and a folder, with no variable that configures it but those that are given."""

    def call(home: Path, *argv: str, env: Mapping[str, str] | None = None) -> Answer:
        for name in [n for n in os.environ if n.startswith(("SWEEPER_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        for name, value in {"GOMP_SPINCOUNT": "10000", **(env or {})}.items():  # main() would leave the first behind
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["sweeper", *argv])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        return Answer(int(done.value.code or 0), *capsys.readouterr())

    return call


def listing(folder: Path, *, leaves_empty: bool = False) -> dict[Path, bytes]:
    """Every file and its content, except for the lock of a study and the note of who held it last."""
    found = {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
    return {
        path: content
        for path, content in found.items()
        if path.suffix not in (".lock", ".holder") and (content or not leaves_empty)
    }
