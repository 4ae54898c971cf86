"""What a sweep's own process does without: torch, which its workers have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.factories import PLAIN, write

DRIVER = """
import atexit, sys
from sweeper.cli.main import main

large = ["torch", "torchvision"]
atexit.register(lambda: print("loaded:", [name for name in large if name in sys.modules], file=sys.stderr))
main()
"""
SWEEP = ("optimize", "--trials", "2", "--epochs", "1", "--dataset", "sample", "--json")


@pytest.mark.parametrize(("model", "tracking"), [("small", "sqlite"), ("net.py:build", "offline")])
def test_a_sweep_on_a_cpu_needs_no_torch_in_its_own_process(
    tmp_path: Path, alone: dict[str, str], model: str, tracking: str
):
    """From the choice of a precision to the champion's errors, and its model in MLflow; a user's network included."""
    write(tmp_path, PLAIN)
    uri = "offline" if tracking == "offline" else f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-c", DRIVER, *SWEEP, "--model", model, "--device", "cpu", "--tracking-uri", uri]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[-1] == "loaded: []"
    result = json.loads(done.stdout)
    assert result["finished"] == 2
    assert 0 < result["test"]["test/accuracy"] < 1
    assert list(tmp_path.glob("journal/sweep/champion-*"))
    assert ("registered model 'sweeper-sweep', version 1, alias champion" in said) == (tracking == "sqlite")
