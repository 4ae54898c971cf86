"""What of the driver's environment a worker must not have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

SECRETIVE: Final = ("MLFLOW_", "SWEEPER_", "PG", "AWS_", "AZURE_", "GOOGLE_")  # variables that a worker has no need of


def secretive() -> list[str]:
    """The variables of this process that may hold a secret, by name."""
    return [name for name in os.environ if name.startswith(SECRETIVE)]


@contextlib.contextmanager
def no_secrets() -> Iterator[None]:
    """Within the block, the environment of this process has none of the variables that may hold a secret."""
    hidden = {name: os.environ.pop(name) for name in secretive()}
    try:
        yield
    finally:
        os.environ.update(hidden)
