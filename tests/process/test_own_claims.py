"""The page on claims of one's own, block by block."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.replication.claims.measures import MEASURES
from sweeper.tracking.reading import read_events

PAGE = (Path(__file__).parents[2] / "docs/how-to/claims.md").read_text()
JOURNAL = "journal/reproduce-first-claims-full"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> tuple[Path, list[str]]:
    """A folder in which the page was followed, without MLflow, and what its commands printed."""
    folder = tmp_path_factory.mktemp("page")
    (text,) = blocks("yaml")
    (folder / "claims.yaml").write_text(text)
    said: list[str] = []
    for line in "".join(blocks("bash")).splitlines():
        command = shlex.split(line, comments=True)
        if "--train" in command and len(said) == 2:  # it goes on with more seeds: a few are enough to see it
            command[command.index("10m")] = "30s"
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", *command[1:]], cwd=folder, env=alone | {"SWEEPER_OFFLINE": "1"},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        said.append(done.stdout)
    return folder, said


def test_the_commands_plan_train_go_on_and_judge(followed: tuple[Path, list[str]]) -> None:
    folder, (planned, trained, went_on, judged) = followed
    assert "claim  1 to 3 seeds: 6 runs more" in planned
    assert "nothing was trained; to train them: sweeper verify --claims claims.yaml --train" in planned
    assert "9/9 runs finished" in trained
    assert "BatchNorm helps from the start" in trained
    assert re.search(r"^claim +\d to \d+ seeds|^nothing to train", went_on, re.M)
    ledger = json.loads((folder / "report/first-claims-full/ledger.json").read_text())
    assert [claim["says"] for claim in ledger["claims"]] == [
        "BatchNorm helps from the start", "Dropout on top of it costs less than 2 points",
    ]  # fmt: skip
    assert all(claim["looks"] for claim in ledger["claims"])
    assert "first-claims" in judged
    events = read_events(folder / JOURNAL / "both/seed-0")
    assert (events[0]["tags"]["sweeper.article"], events[0]["params"]["placement"]) == ("first-claims", "bn-dropout")


def test_the_page_names_every_measure() -> None:
    table = PAGE[PAGE.index("| measure |") :]
    assert all(f"`{name}`" in table or name == "seconds an epoch" for name in MEASURES)
