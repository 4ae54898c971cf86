"""Find the images of a data set by its name."""

from __future__ import annotations

from pathlib import Path

from sweeper.data import fashion
from sweeper.data.images import ImageSource


def find(name: str, data_dir: Path | None = None) -> ImageSource:
    """Find the data set `name`, as `--dataset` takes it.

    Raises:
        DataError: it is missing or wrong.
    """
    return fashion.find(name, data_dir)
