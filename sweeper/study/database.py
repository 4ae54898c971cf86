"""The study's database: opened or refused in one line, and read."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.study.lock import CONNECT_SECONDS


@contextlib.contextmanager
def open_database(url: sqlalchemy.URL, *, create: bool) -> Iterator[optuna.storages.RDBStorage]:
    """Open the database of `url`; its connections are closed at the end of the block.

    With `create`, an empty one gets the tables of studies.

    Raises:
        UsageError: the database belongs to another program, or is empty without `create`.
    """
    sqlite = url.get_backend_name() == "sqlite"
    options = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_SECONDS}
    shown = url.render_as_string(hide_password=True)
    try:
        tables = _tables(url, options)
        if "studies" not in tables and (tables or not create):
            held = f"belongs to another program (it has a table {tables[0]!r})" if tables else "is empty"
            raise UsageError(f"storage {shown}: this database {held}. Name another one with --storage.")
        storage = optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={"connect_args": options, "pool_pre_ping": not sqlite},
        )
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())[:300].replace(url.password or "\0", "***")
        kind = SweeperError if sqlite else ServiceUnreachable
        raise kind(f"storage {shown} cannot be opened ({reason}). Check --storage.") from None
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _tables(url: sqlalchemy.URL, options: Mapping[str, Any]) -> list[str]:
    """Return the names of the tables in the database of `url`, without creating any."""
    engine = sqlalchemy.create_engine(url, connect_args=dict(options), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return sqlalchemy.inspect(connection).get_table_names()


def read_trials(storage: optuna.storages.RDBStorage, study_id: int) -> list[FrozenTrial]:
    """Read all trials of a study. Optuna makes an object of each row, and without the garbage collector takes half
    the time for thousands of trials."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return storage.get_all_trials(study_id, deepcopy=False)
    finally:
        if collects:
            gc.enable()
