"""The files of the reports: their place below SWEEPER_HOME, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sweeper.core.environment import Environment
from sweeper.core.errors import SweeperError
from sweeper.core.files import write_whole

FOLDER: Final = "report"  # of SWEEPER_HOME


def report_path(env: Environment, name: str) -> Path:
    """Return the default path of a study's report."""
    return env.home / FOLDER / f"{name}.html"


def write_report(path: Path, page: bytes) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        SweeperError: it cannot be written there.
    """
    try:
        write_whole(path, page)
    except OSError as error:
        raise SweeperError(
            f"could not write the report {path}: {error.strerror}. Name another file with --output."
        ) from None
