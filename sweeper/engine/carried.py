"""Carry the file of a network's factory to another machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeper.core.config import MODELS, RunConfig
from sweeper.core.own_code import source_of


def read_file(config: RunConfig) -> bytes | None:
    """Return the file that the factory of `config` lies in; None for our own networks, and for a package.

    Raises:
        UsageError: it is gone.
    """
    if config.model in MODELS or not config.model.rpartition(":")[0].endswith(".py"):
        return None
    return source_of(config.model).read_bytes()


@contextmanager
def with_file(config: RunConfig, content: bytes | None) -> Iterator[RunConfig]:
    """Yield `config` with the factory in a file of this machine, which holds `content` until the block ends."""
    if content is None:
        yield config
        return
    place, _, function = config.model.rpartition(":")
    with TemporaryDirectory(prefix="sweeper-code-") as folder:
        file = Path(folder) / Path(place).name
        file.write_bytes(content)
        yield config.derive(model=f"{file}:{function}")
