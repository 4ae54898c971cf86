from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeper.core.errors import SweeperError, UsageError
from sweeper.core.own_code import absolute, explained, load_function, source_of

OWN = """
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    one: int


def pair(one: int = 1) -> Pair:
    return Pair(10 // one)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file of one function, which makes a dataclass."""
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:pair"


def test_a_function_of_a_file_is_loaded_without_a_trace(own: str):
    before = set(sys.modules), list(sys.path)
    assert load_function(own)(2).one == 5
    assert (set(sys.modules), sys.path) == before


def test_a_changed_file_is_another_function(own: str, tmp_path: Path):
    load_function(own)
    (tmp_path / "own.py").write_text("def pair():\n    return 3\n")
    assert load_function(own)() == 3


def test_a_function_of_a_module_is_the_modules():
    import json.decoder

    assert load_function("json.decoder:scanstring") is json.decoder.scanstring
    assert source_of("json.decoder:scanstring") == Path(json.decoder.__file__)


def test_a_name_holds_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("x/../own.py:pair") == f"{tmp_path}/own.py:pair"
    assert absolute("~/own.py:pair") == f"{Path.home()}/own.py:pair"
    assert absolute("own.pair:pair") == "own.pair:pair"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/nowhere/own.py:pair", "/nowhere/own.py: no such file"),
        ("nowhere.at.all:pair", "no module 'nowhere.at.all' is installed"),
        ("sys:exit", "no module 'sys' is installed"),  # built in: it has no file
        ("json:nothing", "has no function 'nothing'"),
        ("json:__doc__", "has no function '__doc__'"),
    ],
)
def test_what_is_not_there_is_refused(name: str, says: str):
    with pytest.raises(UsageError) as caught:
        load_function(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nraise ValueError('not\\nthat')\n", "own.py: ValueError: not that"),
        ("x = 1\nx = (\n", "own.py: SyntaxError: "),
        ("\nimport nothing_like_it\n", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("import sys\nsys.exit()\n", "own.py: SystemExit"),
    ],
)
def test_an_error_of_the_code_is_one_line_with_its_place(tmp_path: Path, code: str, says: str):
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(SweeperError) as caught:
        load_function(f"{tmp_path}/own.py:pair")
    message = str(caught.value)
    assert says in message
    assert f"failed in line 2 of {tmp_path}/own.py" in message
    assert len(message.splitlines()) == 1


def test_an_error_of_the_function_names_its_line_not_that_of_what_it_calls(own: str):
    with pytest.raises(SweeperError, match=r"failed in line 13 of .*own\.py: ZeroDivisionError"), explained(own):
        load_function(own)(0)
    with pytest.raises(UsageError, match="ours"), explained(own):
        raise UsageError("ours")
