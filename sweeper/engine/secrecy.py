"""Keep the secrets in this process's environment from workers and from programs that it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Final

SECRETIVE: Final = ("MLFLOW_", "SWEEPER_", "PG", "AWS_", "AZURE_", "GOOGLE_")  # variables that a worker has no need of


def secretive() -> list[str]:
    """Return the names of the variables of this process that may hold a secret."""
    return [name for name in os.environ if name.startswith(SECRETIVE)]


def public() -> dict[str, str]:
    """Return the environment of this process without the variables that may hold a secret."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SECRETIVE)}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment of this process by `variables` until the block ends."""
    before = dict(os.environ)
    _replace(variables)
    try:
        yield
    finally:
        _replace(before)


def _replace(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
