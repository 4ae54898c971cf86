"""Download a data set next to its final folder, so that the folder is either complete or missing."""

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
    """Yield a temporary folder next to `folder`. The block downloads into it, then moves the files to `folder`.

    Args:
        name: of the data set.
        folder: its final folder.
        otherwise: advice if the download fails.

    Raises:
        DataError: torchvision cannot be imported, no server answers, or a folder cannot be written.
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
    """Make connections opened in this block time out after `SILENCE`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
