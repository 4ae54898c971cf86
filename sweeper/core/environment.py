"""The places of a command's state, and the ways it writes messages, from options and environment variables."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweeper.core.errors import SweeperError

OFFLINE, NONE = "offline", "none"
JOURNAL: Final = "journal"
ENCODED: Final = re.compile("%(?=[0-9a-fA-F]{2})")

EXPERIMENT: Final = "bn-dropout"
Say = Callable[[str], None]


@dataclass(frozen=True)
class MlflowExperiment:
    """The MLflow experiment that holds the runs: the one with an id, or else the one with a name, which may be new."""

    name: str = EXPERIMENT
    id: str = ""

    def __str__(self) -> str:
        return f"with the id {self.id}" if self.id else repr(self.name)


OURS: Final = MlflowExperiment()


@dataclass(frozen=True)
class Environment:
    """The places of a command's state, and the ways it writes messages.

    `home` holds mlflow.db, mlartifacts, sweeper.db and the journal, unless a URI names another place.
    """

    home: Path
    tracking_uri: str
    storage: str
    data_dir: Path | None
    json_output: bool
    warn: Say
    say: Say
    progress: bool = True  # show the progress of runs
    verbose: bool = False  # print each epoch of each run
    experiment: MlflowExperiment = OURS

    @property
    def journal(self) -> Path:
        """The root folder of the journal."""
        return self.home / JOURNAL


def sqlite_url(file: Path) -> str:
    """Return the URL of a sqlite file. SQLAlchemy decodes `%20` in it, and ends the path at a `?`."""
    return "sqlite:///" + ENCODED.sub("%25", str(file)).replace("?", "%3F")


def storage_url(home: Path) -> str:
    """Return the URL of the default study database."""
    return sqlite_url(home / "sweeper.db")


def tracking_url(home: Path) -> str:
    """Return the URL of the default tracking store."""
    return sqlite_url(home / "mlflow.db")


def mlflow_command() -> str:
    """Return the mlflow command of this environment for a shell, as a path unless it is the one on PATH."""
    return program("mlflow")


def program(name: str) -> str:
    """Return a program of this environment for a shell, as a path unless it is the one on PATH."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    active = "VIRTUAL_ENV" in os.environ or "CONDA_PREFIX" in os.environ
    if not ours.exists() or (active and found and Path(found).resolve() == ours.resolve()):
        return name
    return shlex.quote(str(ours.absolute()))


def check_home(home: Path, named: str = "SWEEPER_HOME") -> Path:
    """Return `home`, the value of the variable or option `named`, if it is a folder.

    Raises:
        SweeperError: it is not a folder.
    """
    if not home.is_dir():
        raise SweeperError(f"{named} {home} is not a directory. Create it, or leave {named} out.")
    return home


@contextlib.contextmanager
def new_home(home: Path, named: str) -> Iterator[Path]:
    """Yield `home`, created if its parent exists; after the block it is removed again if it is empty.

    Raises:
        SweeperError: it is not a folder and could not be created.
    """
    made = not home.exists() and home.absolute().parent.is_dir()
    if made:
        home.mkdir()
    try:
        yield check_home(home, named)
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                home.rmdir()
