"""Where a command keeps its state, and how it speaks: resolved from options and the process's variables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy

from sweeper.errors import SweeperError, UsageError

OFFLINE, NONE = "offline", "none"
JOURNAL: Final = "journal"
# Where a password belongs that libpq would also take from the query part of a URL, which everybody shows.
BELONGS: Final = {
    "password": "into ~/.pgpass or PGPASSWORD, or before the host as USER:PASSWORD@",
    "sslpassword": "into ~/.pg_service.conf",
}
QUERY_PASSWORD: Final = re.compile(r"([?&](?:ssl)?password=)[^&\s]*", re.IGNORECASE)

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


def database_url(url: str) -> sqlalchemy.URL:
    """Parse a storage URL; `postgres://` means `postgresql://`, and that means psycopg 3.

    Raises:
        UsageError: it is not a sqlite or PostgreSQL URL, or has a password in its query part.
    """
    try:
        parsed = sqlalchemy.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        shown = hide_query_password(re.sub(r"//\S*@", "//***@", url))[:80]
        raise UsageError(f"storage {shown!r}: expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    refuse_query_password(url)
    return parsed


def refuse_query_password(url: str) -> None:
    """Refuse a database's URL with a password after the `?`: messages, records and command lines show that part.

    Raises:
        UsageError: there is one; the message says where it belongs.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return  # whoever parses it says more
    for key in map(str.lower, parsed.query):
        if key in BELONGS:
            bare = parsed.set(query={}).render_as_string(hide_password=True)[:80]
            raise UsageError(
                f"database URL '{bare}?{key}=***': what follows the ? is shown to others; put the password "
                f"{BELONGS[key]}"
            )


def hide_query_password(text: str) -> str:
    """`text` with any password in the query part of a URL left out."""
    return QUERY_PASSWORD.sub(r"\1***", text)
