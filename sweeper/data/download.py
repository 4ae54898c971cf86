"""Download a data set to a place beside its folder, so that the folder is whole or absent."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sweeper.core.errors import DataError, one_line

SILENCE: Final = 10.0  # seconds that a download waits for the server


@contextmanager
def downloading(name: str, folder: Path, otherwise: str) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, to download a data set into and move it from.

    Args:
        name: of the data set.
        folder: where it will lie.
        otherwise: what to do if it cannot be downloaded.

    Raises:
        DataError: this block failed to import torchvision, to reach a server, or to write.
    """
    from http.client import HTTPException  # which few commands need

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _impatient(), tempfile.TemporaryDirectory(dir=folder.parent) as part:
            yield Path(part)
    except (ImportError, OSError, RuntimeError, HTTPException) as error:
        reason = one_line(error, 200)
        raise DataError(f"{name} was not found and cannot be downloaded ({reason}). {otherwise}") from None


@contextmanager
def _impatient() -> Iterator[None]:
    """Give up a download in this block once its server has been silent for a while."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
