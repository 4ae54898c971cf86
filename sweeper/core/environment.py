"""Where a command keeps its state, and how it speaks: resolved from options and the process's variables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweeper.core.errors import SweeperError

OFFLINE, NONE = "offline", "none"
JOURNAL: Final = "journal"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """Where state lives, and how the command speaks.

    `home` holds mlflow.db, mlartifacts, sweeper.db and the journal, where no URI says otherwise.
    """

    home: Path
    tracking_uri: str
    storage: str
    data_dir: Path | None
    json_output: bool
    warn: Say
    say: Say

    @property
    def journal(self) -> Path:
        """The journal's root."""
        return self.home / JOURNAL


def storage_url(home: Path) -> str:
    """The study database where none is named."""
    return f"sqlite:///{home / 'sweeper.db'}"


def tracking_url(home: Path) -> str:
    """The tracking store where none is named."""
    return f"sqlite:///{home / 'mlflow.db'}"


def check_home(home: Path, named: str = "SWEEPER_HOME") -> Path:
    """Return `home`, which the variable or option `named` gives, if it is a folder.

    Raises:
        SweeperError: it is not.
    """
    if not home.is_dir():
        raise SweeperError(f"{named} {home}: not a folder; create it, or do without {named}")
    return home


@contextlib.contextmanager
def new_home(home: Path, named: str) -> Iterator[Path]:
    """`home`, made if its parent is there; after the block it is removed again if nothing is in it.

    Raises:
        SweeperError: it is not a folder, and cannot be made one.
    """
    made = not home.exists() and home.absolute().parent.is_dir()
    if made:
        home.mkdir()
    try:
        yield check_home(home, named)
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds something
                home.rmdir()
