"""docs/xray-your-model.md: its Python blocks print what the page shows, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "xray-your-model.md"
STRICT = "import warnings\nwarnings.simplefilter('error')\n"
RECALIBRATED = """
import math
again = sweeper.xray(model, loader)
before, after = (abs(found.layers[1].signed) for found in (result, again))
print(frame.shape[0], math.isfinite(frame.closed_form[1]), after < before / 4)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_can_be_followed_by_copy_and_paste(tmp_path: Path, alone: dict[str, str]):
    *script, _ = blocks("python")
    code = STRICT + "\n".join(script) + RECALIBRATED
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "xray.png").read_bytes().startswith(b"\x89PNG")
    (shown,) = blocks("text")
    assert "Dropout" in shown
    digits = re.compile(r"\d+(\.\d+)?")  # they depend on the processor
    assert digits.sub("#", " ".join(done.stdout.split())).startswith(digits.sub("#", " ".join(shown.split())))
    assert done.stdout.splitlines()[-1] == "2 True True"


def test_the_commands_of_the_page_examine_the_network_of_its_file(tmp_path: Path, alone: dict[str, str]):
    (tmp_path / "net.py").write_text(blocks("python")[-1])
    commands, _ = blocks("bash")  # the second has placeholders
    path = os.pathsep.join([str(Path(sys.executable).parent), alone["PATH"]])
    env = alone | {"PATH": path, "SWEEPER_OFFLINE": "1"}
    done = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, env=env, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("X-ray of") :]
    assert table.startswith("X-ray of 2 BatchNorm layers, 1,024 images a pass")
    last = next(line.split() for line in table.splitlines() if line.startswith("5 "))
    assert (last[0], last[1], last[-1]) == ("5", "16", "before")
