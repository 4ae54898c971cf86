"""docs/how-to/xray-your-model.md: its Python blocks run from top to bottom, and print what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "xray-your-model.md"
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
    code = STRICT + "\n".join(blocks("python")) + RECALIBRATED
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
