"""What every command says of itself, and the options that all of them have."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sweeper.cli.main import cli
from sweeper.cli.options import USUAL
from sweeper.core.experiments import experiment
from tests.process.conftest import Answer

ROOT = Path(__file__).parents[2]
COLUMNS = 80
ONE_EPOCH = ("train", "--exp", "1", "--epochs", "1", "--dataset", "sample", "--train-images", "200", "--tracking-uri",
             "none")  # fmt: skip


def shown(*path: str) -> str:
    done = CliRunner().invoke(cli, [*path, "--help"], prog_name="sweeper", terminal_width=COLUMNS)
    assert done.exit_code == 0
    return done.output


def slug(heading: str) -> str:
    """The anchor of a heading, as Markdown renderers make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("command", cli.commands)
def test_help_fits_80_columns_and_names_a_page_that_exists(command: str):
    text = shown(command)
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "auto|" not in text.replace("auto|HOST:PORT", "")  # which Ray itself knows
    assert "RANGE" not in text
    page, _, anchor = text.splitlines()[-1].removeprefix("More: ").partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert not anchor or anchor in map(slug, headings)


@pytest.mark.parametrize("command", cli.commands)
def test_each_command_has_two_or_three_examples_that_are_right(command: str):
    lines = shown(command).partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert 2 <= len(lines) <= 3
    assert any(f" {command}" in line for line in lines)
    for line in lines:
        if command == "completion":
            continue  # for a shell
        program, name, *words = shlex.split(line)
        assert program == "sweeper"
        with cli.commands[name].make_context(name, words, parent=click.Context(cli)):
            pass


def test_the_list_of_commands_shows_each_summary_whole():
    text = shown()
    for name, command in cli.commands.items():
        summary = (command.help or "").partition("\n")[0]
        assert len(summary) <= 55
        assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE)


def test_the_options_of_optimize_stand_in_groups():
    headings = re.findall(r"^([A-Z][\w ]*):$", shown("optimize"), re.MULTILINE)
    expected = ["Search", "Training", "Execution", "Ray", "Data", "Tracking", "Other options", "Examples"]
    assert headings == expected


def test_the_values_that_help_shows_are_those_of_the_default_experiment():
    config = experiment(6)
    assert {name: getattr(config, name) for name in USUAL} == USUAL
    assert "[default: the\n                                experiment's, 20]" in shown("train")


@pytest.mark.parametrize(
    ("command", "alias", "name", "value"),
    [
        ("optimize", ["--n-trials", "7"], "trials", 7),
        ("optimize", ["--study-name", "a"], "study", "a"),
        ("optimize", ["--ray-address", "auto"], "address", "auto"),
        ("optimize", ["--retrain-best"], "final", True),
        ("optimize", ["--no-retrain-best"], "final", False),
        ("optimize", ["--timeout", "90"], "timeout", 90),
        ("optimize", ["--timeout", "90s"], "timeout", 90),
        ("optimize", ["--timeout", "1.5m"], "timeout", 90),
        ("optimize", ["--timeout", "2h"], "timeout", 7200),
        ("optimize", ["--timeout", "auto"], "timeout", None),
    ],
)
def test_spellings(command: str, alias: list[str], name: str, value: object):
    context = cli.commands[command].make_context(command, alias, parent=click.Context(cli))
    assert context.params[name] == value


@pytest.mark.parametrize("argv", [("--debug", "status"), ("status", "--debug")], ids=" ".join)
def test_debug_shows_the_traceback_before_and_after_a_command(argv: tuple[str, ...], tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "sweeper", *argv], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.stderr.startswith("Traceback")
    assert "Run `sweeper optimize` first" in done.stderr


def test_v_is_the_version(sweeper: Callable[..., Answer], tmp_path: Path):
    assert sweeper(tmp_path, "-V") == sweeper(tmp_path, "--version")


@pytest.mark.parametrize("argv", [("-q", *ONE_EPOCH), (*ONE_EPOCH, "--quiet")], ids=["before", "after"])
def test_quiet_prints_nothing(sweeper: Callable[..., Answer], tmp_path: Path, argv: tuple[str, ...]):
    assert sweeper(tmp_path, *argv) == (0, "", "")


def on_a_terminal(cwd: Path, env: dict[str, str]) -> str:
    """The output of a wrong command on a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-m", "sweeper", "trian"], cwd=cwd, stdout=theirs, stderr=theirs,
                          env=env, timeout=60, check=False)  # fmt: skip
    os.close(theirs)
    assert done.returncode == 2
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    return text


def test_a_terminal_shows_colours_unless_no_color_forbids_them(tmp_path: Path, alone: dict[str, str]):
    env = {name: value for name, value in alone.items() if name != "NO_COLOR"}
    assert on_a_terminal(tmp_path, env).startswith("\x1b[")
    assert on_a_terminal(tmp_path, env | {"NO_COLOR": "1"}).startswith("error: ")
