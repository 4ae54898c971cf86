"""The champion as a stock MLflow client loads it, by docs/how-to/champion.md, where sweeper cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sweeper.data.fashion import SAMPLE_DIR

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "champion.md"
WITHOUT_SWEEPER = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sweeper":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nowhere())
"""
JUDGE = """
import gzip, json, pathlib, torch
folder = pathlib.Path(sys.argv[1])
read = lambda name, header: np.frombuffer(gzip.decompress((folder / name).read_bytes())[header:], np.uint8)
images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28).copy()
labels = read("t10k-labels-idx1-ubyte.gz", 8)
table = model.predict(images)
network.train(); network.eval()
with torch.no_grad():
    logits = network(torch.from_numpy(images)).float().numpy()
sums = table.sum(axis=1)
print(json.dumps({
    "columns": list(table.columns), "rows": len(table), "sums": [float(sums.min()), float(sums.max())],
    "pyfunc": float((table.to_numpy().argmax(1) == labels).mean()),
    "pytorch": float((logits.argmax(1) == labels).mean()),
}))
"""


def lines_of_the_page() -> str:
    """The Python block of the section on the champion."""
    section = PAGE.read_text().partition("## Load the champion\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return block


def test_the_lines_of_the_page_reach_the_accuracy_that_was_recorded(finished_sweep: Any, alone: dict[str, str]):
    lines = lines_of_the_page().replace("sweeper-mine", "sweeper-sweep")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SWEEPER + lines + JUDGE, str(SAMPLE_DIR)],
        cwd=finished_sweep.home, env=alone, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    recorded = finished_sweep.result["test"]["test/accuracy"]
    assert found["rows"] == 1_000
    assert found["pyfunc"] == recorded
    images = round(1_000 * abs(found["pytorch"] - recorded))
    assert images <= 2  # without autocast, where the champion was evaluated with it
    assert found["columns"][:3] == ["T-shirt/top", "Trouser", "Pullover"]
    assert [round(total, 4) for total in found["sums"]] == [1.0, 1.0]
