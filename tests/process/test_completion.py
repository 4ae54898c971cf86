"""Shell completion, in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.core.experiments import EXPERIMENT_TITLES
from tests.process.conftest import Answer

# What bash does when Tab is pressed: it calls the function that `complete` knows, which fills COMPREPLY.
TAB = """
eval "$(sweeper completion bash)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p sweeper | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" sweeper
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def tab(tmp_path: Path, alone: dict[str, str]) -> Callable[..., list[str]]:
    """Press Tab after some words, in a folder with two studies."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    for name in ("rates", "ranges", "runs", "reproduce-quick"):
        (tmp_path / "journal" / name).mkdir(parents=True)
    env = alone | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def press(*words: str) -> list[str]:
        done = subprocess.run([bash, "-c", TAB, "bash", "sweeper", *words], cwd=tmp_path, env=env, capture_output=True,
                              text=True, timeout=60, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return press


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["opti"], ["optimize"]),
        (["re"], ["replay", "report", "reproduce", "restore", "resume"]),
        (["optimize", "--study"], ["--study", "--study-name"]),
        (["train", "--placement", "bn-p"], ["bn-pool-dropout"]),
        (["train", "--dataset", "cifar"], ["cifar10", "cifar100"]),
        (["train", "--exp", ""], [str(number) for number in EXPERIMENT_TITLES]),
        (["status", "ra"], ["ranges", "rates"]),
        (["pause", "rat"], ["rates"]),
        (["optimize", "--study", "r"], ["ranges", "rates"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_tab_completes(tab: Callable[..., list[str]], words: list[str], completed: list[str]):
    assert sorted(tab(*words)) == completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_call_sweeper(sweeper: Callable[..., Answer], tmp_path: Path, shell: str):
    answer = sweeper(tmp_path, "completion", shell)
    assert answer.code == 0
    assert f"_SWEEPER_COMPLETE={shell}_complete" in answer.out
