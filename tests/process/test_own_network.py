"""The page on networks of one's own, block by block, and what the commands refuse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.data.fashion import SAMPLE
from sweeper.sweep.networks import with_source
from sweeper.tracking.reading import read_record
from sweeper.training.networks.check import check_network
from tests.process.conftest import Answer, listing
from tests.support.factories import OWN, PLAIN, write

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "own-network.md").read_text()
SLOW = "--study vision"  # a command of the page that takes minutes


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> Path:
    """A folder in which the page was followed, without MLflow."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in zip(("net.py", "small_resnet.py", "vision.py"), blocks("python"), strict=True):
        (folder / name).write_text(text)
    for name, text in zip(("space.yaml", "when.yaml"), blocks("yaml"), strict=True):
        (folder / name).write_text(text)
    env = alone | {"SWEEPER_OFFLINE": "1"}
    commands = [shlex.split(block.replace("\\\n", "")) for block in blocks("bash") if SLOW not in block]
    assert len(commands) == 4
    for command in commands:
        assert command[0] == "sweeper"
        done = subprocess.run([sys.executable, "-m", *command, "--device", "cpu"], cwd=folder, env=env,
                              capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
    return folder


def params(followed: Path, folders: str) -> list[dict[str, str]]:
    return [read_record(folder).params for folder in sorted((followed / "journal").glob(folders))]


def test_the_page_trains_both_networks_once(followed: Path):
    plain, residual = sorted(params(followed, "runs/*"), key=lambda run: run["model"])
    assert (plain["model"], plain["placement"]) == (f"{followed}/net.py:build", "dropout-bn")
    assert plain["model.width"] == "8"
    assert (residual["model"], residual["placement"]) == (f"{followed}/small_resnet.py:Net", "bn-dropout-last")


def test_the_page_searches_placements_and_the_width(followed: Path):
    trials = params(followed, "own/0*")
    assert len(trials) == 4
    assert {trial["placement"] for trial in trials} <= {"none", "bn", "bn-dropout", "dropout-bn"}
    assert {trial["model.width"] for trial in trials} <= {"8", "16"}
    files = list((followed / "journal/own").glob("*/artifacts/code/net.py"))
    assert {file.read_text() for file in files} == {(followed / "net.py").read_text()}
    assert len(files) == 4 + 1  # and the champion


def test_the_page_compares_schedules_of_dropout(followed: Path):
    trials = params(followed, "when/0*")
    assert len(trials) == 3
    for trial in trials:
        assert (trial.get("dropout_schedule", "constant") == "constant") == (trial.get("dropout_switch", "0") == "0")


def test_the_network_of_torchvision_on_the_page_can_be_trained(followed: Path):
    config = RunConfig.create(model=f"{followed}/vision.py:build", placement="own")
    check_network(with_source(config), SAMPLE.spec)


# --- one line, and nothing is created ------------------------------------------------------------------

REFUSED = {
    "--model net.py:nothing": "has no function 'nothing'",
    "--model none.py:build": "none.py: no such file",
    "--model nowhere:build": "no module 'nowhere' is installed",
    "--model huge": "use small, medium, large, resnet20, package.module:function or file.py:function",
    "--model net.py:build --model-arg width": "'width' is not NAME=VALUE, such as width=32",
    "--model net.py:build --model-arg 2=3": "'2=3' is not NAME=VALUE",
    "--model net.py:build --model-arg wdith=3": "unexpected keyword argument 'wdith'",
    "--model net.py:build --model-arg width=0": "net.py:build",
    "--model small --model-arg width=3": "model.width=3: model small takes no arguments",
    "--model broken.py:build": "it must return logits",
    "--model raises.py:build": "raises.py: RuntimeError: no weights",
    "--dropout-schedule early": "dropout_switch=0: dropout_schedule=early needs 1 to epochs - 1",
    "--dropout-switch 3": "only --dropout-schedule early and late use it",
}
OF_TRAIN = {
    "--placement bn-dropout-last": "model medium has no residual blocks",
    "--model net.py:build --placement bn-dropout-last": "the network of net.py:build has none",
    "--model own.py:build --placement bn": "takes no argument `layers`, so its placement is own",
    "--model own.py:build --conv-dropout 0.2": "placement own has no Dropout in its convolutions",
    "--model own.py:build --batch-size 1": "BatchNorm needs 2 or more images in a batch",
}


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        *(("train", options, says) for options, says in (REFUSED | OF_TRAIN).items()),
        *(("optimize", options, says) for options, says in REFUSED.items()),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line_and_nothing_is_created(
    sweeper: Callable[..., Answer], tmp_path: Path, command: str, options: str, says: str
):
    write(tmp_path, PLAIN)
    write(tmp_path, OWN, "own.py")
    write(tmp_path, OWN.replace("len(images.classes)", "3"), "broken.py")
    write(tmp_path, "def build(images):\n    raise RuntimeError('no weights')\n", "raises.py")
    before, threads = listing(tmp_path), torch.get_num_threads()
    argv = (command, *options.split(), "--dataset", "sample", "--device", "cpu", "--tracking-uri", "offline")
    answer = sweeper(tmp_path, *argv)
    torch.set_num_threads(threads)
    assert (answer.code, answer.out) == (1 if "raises" in options or "width=0" in options else 2, "")
    (line,) = answer.err.splitlines()
    assert says in line
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "value"),
    [("a=3", 3), ("a=0.5", 0.5), ("a=1e-3", 1e-3), ("a=true", True), ("a=relu", "relu"), ("a=", ""), ("a=NaN", "NaN"),
     ("a=[1]", "[1]"), ("a=null", "null"), ("a=b=c", "b=c")],
)  # fmt: skip
def test_an_argument_is_a_number_a_truth_value_or_text(given: str, value: object):
    from sweeper.cli.values import ModelArgument

    name, found = ModelArgument().convert(given, None, None)
    assert (name, found, type(found)) == ("a", value, type(value))


def test_the_working_directory_is_not_searched_for_packages(
    sweeper: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A package must be installed or on PYTHONPATH, as for `import` in a script."""
    write(tmp_path, PLAIN, "own_package_of_this_test.py")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).is_absolute()])
    answer = sweeper(tmp_path, "train", "--model", "own_package_of_this_test:build", "--dataset", "sample")
    assert answer.code == 2
    assert "no module 'own_package_of_this_test' is installed" in answer.err
