from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from sweeper.study.opening import open_study
from sweeper.study.study import Study
from tests.study.sweeps import MEMORY, SETTINGS, Killed


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def study() -> Iterator[Study]:
    """A new study in memory."""
    with closing(open_study("demo", replace(SETTINGS, sampler="random", pruner="none"), MEMORY)) as opened:
        yield opened


@pytest.fixture
def killed_at() -> Iterator[Callable[[int], None]]:
    """Makes the nth transaction from now fail, as if the process had died before it."""
    left = 0

    def count(_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    def kill(nth: int) -> None:
        nonlocal left
        left = nth

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", count)
    yield kill
    sqlalchemy.event.remove(sqlalchemy.Engine, "commit", count)
