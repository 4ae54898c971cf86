"""Places for commands under faults, and the tally of faults and losses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.tools.place import Place
from tests.faults.tools.tally import note

Tally = Callable[..., None]


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, alone: dict[str, str]) -> Place:
    """A place with an empty MLflow store, for commands with stub training."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    return Place(home, alone, {})


@pytest.fixture
def real(tmp_path: Path, empty_store: Path, alone: dict[str, str]) -> Place:
    """A place with an empty MLflow store, for commands with real training."""
    place = Place(tmp_path / "home", alone)
    place.home.mkdir()
    shutil.copy(empty_store, place.home)
    return place


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """`tally("G1", {"kills": 1}, {"trials lost": 0})` counts what a test did, and checks that nothing was lost."""
    entries: list[dict[str, Any]] = []

    def count(promise: str, done: dict[str, float], lost: dict[str, int]) -> None:
        entries.append({"promise": promise, "done": done, "lost": lost})
        assert {what: n for what, n in lost.items() if n} == {}

    yield count
    passed = getattr(request.node, "passed", False)
    for entry in entries:
        note(entry | {"test": request.node.nodeid, "passed": passed})
    if not passed:
        note({"failed": request.node.nodeid})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note on the test if it passed, for its fixtures."""
    report = yield
    if report.when == "call":
        item.passed = report.passed
    return report
