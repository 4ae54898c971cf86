from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.study.opening import open_study
from sweeper.study.study import Study
from tests.study.sweeps import MEMORY, SETTINGS


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def study() -> Iterator[Study]:
    """A new study in memory."""
    with closing(open_study("demo", replace(SETTINGS, sampler="random", pruner="none"), MEMORY)) as opened:
        yield opened
