"""The commands that README.md, the tutorials and the how-to guides show exist, with the options that are shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sweeper.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/tutorials/*.md")), *sorted(ROOT.glob("docs/how-to/*.md"))]
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
START = re.compile(r"^(?:\$ )?(?:uv run |ExecStart=\S*/)?(sweeper .*)$", re.MULTILINE)


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of sweeper that a page shows."""
    for block in BLOCK.findall(page.read_text()):
        for line in START.findall(block.replace("\\\n", "")):
            yield shlex.split(re.split(r" &&? ", line)[0], comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_exists_with_its_options(page: Path):
    for name, *words in shown(page):
        command = cli.commands[name] if not name.startswith("-") else cli
        with click.Context(command) as context:
            _, left, _ = command.make_parser(context).parse_args(list(words))
            assert left == [], (name, *words)


def test_the_pages_show_commands():
    assert sum(1 for page in PAGES for _ in shown(page)) > 40
