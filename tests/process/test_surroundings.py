"""Commands in surroundings that are unusual: closed streams, a long TMPDIR, a terminal of ASCII."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OPTIMIZE = "optimize --exp 1 --epochs 1 --dataset sample --tracking-uri offline --trials 1 --no-final"


def in_shell(command: str, home: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m sweeper"
    return subprocess.run(
        ["/bin/sh", "-c", f"{program} {command}"], cwd=home, env=variables, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_closed_standard_streams_lose_no_run(tmp_path: Path, alone: dict[str, str]):
    done = in_shell(f"{OPTIMIZE} <&- >&- 2>&-", tmp_path, alone)
    assert done.returncode == 0
    assert b'"status": "FINISHED"' in (tmp_path / "journal/sweep/0000/events.jsonl").read_bytes()


@pytest.mark.slow
def test_a_long_tmpdir_ascii_and_a_notebooks_backend_are_no_obstacle(tmp_path: Path, alone: dict[str, str]):
    home, folder = tmp_path / "für", tmp_path / ("x" * 90)
    home.mkdir()
    folder.mkdir()
    variables = {"TMPDIR": str(folder), "PYTHONIOENCODING": "ascii", "SWEEPER_HOME": str(home)}
    variables |= {"MPLBACKEND": "module://of_a_notebook", "HOME": "/nonexistent"}
    done = in_shell(OPTIMIZE, tmp_path, alone | variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "für/report/sweep.html" in done.stdout  # click writes UTF-8 all the same
