"""Check database URLs, and show them without a password."""

from __future__ import annotations

import re
from typing import Final

import sqlalchemy

from sweeper.core.errors import UsageError

# libpq also takes these from the query part of a URL, which every program shows. They belong elsewhere:
BELONGS: Final = {
    "password": "into ~/.pgpass or PGPASSWORD, or before the host as USER:PASSWORD@",
    "sslpassword": "into ~/.pg_service.conf",
}
QUERY_PASSWORD: Final = re.compile(r"([?&](?:ssl)?password=)[^&\s]*", re.IGNORECASE)


def database_url(url: str) -> sqlalchemy.URL:
    """Parse a storage URL; `postgres://` and `postgresql://` both mean psycopg 3.

    Raises:
        UsageError: it is not a sqlite or PostgreSQL URL, or has a password in its query part.
    """
    try:
        parsed = sqlalchemy.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        shown = hide_query_password(re.sub(r"//\S*@", "//***@", url))[:80]
        raise UsageError(f"storage {shown!r}: use sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    refuse_query_password(url)
    return parsed


def refuse_query_password(url: str) -> None:
    """Refuse a database's URL with a password after the `?`: messages, records and command lines show that part.

    Raises:
        UsageError: there is a password; the message names its proper place.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return  # the code that parses it raises a better error
    for key in map(str.lower, parsed.query):
        if key in BELONGS:
            bare = parsed.set(query={}).render_as_string(hide_password=True)[:80]
            raise UsageError(
                f"database URL '{bare}?{key}=***': other users can see the part after the ?. Put the password "
                f"{BELONGS[key]}."
            )


def hide_query_password(text: str) -> str:
    """Return `text` with `***` for every password in the query part of a URL."""
    return QUERY_PASSWORD.sub(r"\1***", text)
