"""The reports: from what a study, or the reproduction, left in stores and journals to one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sweeper.core.environment import Environment
from sweeper.core.errors import SweeperError
from sweeper.core.files import write_whole

FOLDER: Final = "report"  # of SWEEPER_HOME


def report_path(env: Environment, name: str) -> Path:
    """Where the report of a study lies if no other place is named."""
    return env.home / FOLDER / f"{name}.html"


def write_report(path: Path, page: bytes) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        SweeperError: it cannot be written there.
    """
    try:
        write_whole(path, page)
    except OSError as error:
        raise SweeperError(f"report {path}: {error.strerror}; name another place with --output") from None
