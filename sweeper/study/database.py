"""The study's database, opened or refused in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.study.lock import CONNECT_SECONDS


@contextlib.contextmanager
def _storage(url: sqlalchemy.URL, *, create: bool) -> Iterator[optuna.storages.RDBStorage]:
    """The database of `url`; its connections are closed at the end of the block.

    With `create`, an empty one gets the tables of studies.

    Raises:
        UsageError: the database is another program's, or it is empty and to be read.
    """
    sqlite = url.get_backend_name() == "sqlite"
    options = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_SECONDS}
    shown = url.render_as_string(hide_password=True)
    try:
        tables = _tables(url, options)
        if "studies" not in tables and (tables or not create):
            held = f"which is another program's, with tables such as {tables[0]!r}" if tables else "which is empty"
            raise UsageError(f"storage {shown}: no study is in this database, {held}")
        storage = optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False), engine_kwargs={"connect_args": options, "pool_pre_ping": True}
        )
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())[:300].replace(url.password or "\0", "***")
        kind = SweeperError if sqlite else ServiceUnreachable
        raise kind(f"storage {shown}: {reason}") from None
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _tables(url: sqlalchemy.URL, options: Mapping[str, Any]) -> list[str]:
    """The names of the tables in the database of `url`; nothing is created there."""
    engine = sqlalchemy.create_engine(url, connect_args=dict(options), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return sqlalchemy.inspect(connection).get_table_names()
