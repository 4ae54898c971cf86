"""What of the driver's environment no worker, and no program that it calls, must have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

SECRETIVE: Final = ("MLFLOW_", "SWEEPER_", "PG", "AWS_", "AZURE_", "GOOGLE_")  # variables that a worker has no need of


def secretive() -> list[str]:
    """The variables of this process that may hold a secret, by name."""
    return [name for name in os.environ if name.startswith(SECRETIVE)]


def public() -> dict[str, str]:
    """The environment of this process, but for the variables that may hold a secret."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SECRETIVE)}


@contextlib.contextmanager
def no_secrets() -> Iterator[None]:
    """Within the block, the environment of this process has none of the variables that may hold a secret."""
    hidden = {name: os.environ.pop(name) for name in secretive()}
    try:
        yield
    finally:
        os.environ.update(hidden)
