"""The peers' sweep as `sweeper optimize` runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.hardware import usable_cores
from benchmarks.pages import ROOT
from benchmarks.peers.recipe import AUGMENTATION, FIXED, RATES
from benchmarks.processes import Ran, run

STUDY = "peers"


def optimize(home: Path, model: str, trials: int, epochs: int, seed: int, *options: str) -> list[str]:
    """The command, with a search space in `home` that is the recipe's."""
    fixed = {name: [value] for name, value in FIXED.items()}
    space = fixed | {name: {"low": low, "high": high} for name, (low, high) in RATES.items()}
    file = home / "space.yaml"
    file.write_text(json.dumps(space))
    return [sys.executable, "-m", "sweeper", "optimize", "--study", STUDY, "--exp", "7", "--model", model,
            "--augmentation", AUGMENTATION, "--space", str(file), "--trials", str(trials), "--epochs", str(epochs),
            "--seed", str(seed), "--dataset", "sample", "--pruner", "none", "--no-final",
            "--workers", str(usable_cores()), *options]  # fmt: skip


def run_command(command: list[str], home: Path, *, sample_memory: bool = True) -> Ran:
    """Run one tool's sweep in `home`, where it keeps all that it writes."""
    env = {"PYTHONPATH": str(ROOT), "SWEEPER_HOME": str(home), "HOME_OF_SWEEP": str(home), "MLFLOW_TRACKING_URI": "",
           "RAY_TMPDIR": str(home)}  # fmt: skip
    return run(command, home, env, sample_memory=sample_memory)
