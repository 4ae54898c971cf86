"""The connection to one MLflow store: its database, its MLflow experiment, its outages."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import filelock

from sweeper.core.environment import OURS, MlflowExperiment, sqlite_url
from sweeper.core.errors import SweeperError
from sweeper.tracking.client import open_client, silence
from sweeper.tracking.notes import describe_experiment, experiment_tags
from sweeper.tracking.patience import Wait, retrying
from sweeper.tracking.store import (
    absolute,
    check_stage,
    find_experiment,
    hide_password,
    is_sqlite,
    reason_of,
    root_of,
    sqlite_file,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS: Final = "mlartifacts"  # a folder of the home
LOCATIONS: Final = {  # the columns of MLflow's tables that hold the place of files
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
AWAY_AFTER: Final = 5  # failures in a row: a second and a half

Warn = Callable[[str], None]


class Connection:
    """One MLflow store, and the MLflow experiment in it that holds our runs."""

    client: MlflowClient  # from `connect` on
    experiment_id: str  # from `connect` on

    def __init__(self, uri: str, home: Path, warn: Warn, experiment: MlflowExperiment = OURS) -> None:
        self.uri = store_uri(uri)
        self._home, self._experiment = home, experiment
        self.warn = warn
        self._said: set[str] = set()
        self._failures = 0
        self._away = False

    def connect(self, wait: Wait = time.sleep) -> None:
        """Import MLflow, create its database if there is none, and find or create the MLflow experiment.

        Retry, after `wait`, as long as the server does not answer.

        Raises:
            SweeperError: the MLflow experiment was deleted, or the store has another schema.
        """
        with _alone(self.uri):
            try:
                _create_sqlite(self.uri)
                self.client = open_client(absolute(self.uri))
                self.experiment_id = retrying(self._find_experiment, self.report, wait)
            except SweeperError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow's own, or SQLAlchemy's for a file that is no database
                raise SweeperError(
                    f"tracking store {hide_password(self.uri)} cannot be opened ({reason_of(error)}). Check "
                    "--tracking-uri."
                ) from None

    def warn_once(self, text: str) -> None:
        """Warn, but only once per message."""
        if text not in self._said:
            self._said.add(text)
            self.warn(text)

    def report(self, error: Exception | None) -> None:
        """Count a failed call, or a successful one if `error` is None. Warn once of an outage and once of its end."""
        server = f"tracking server {hide_password(self.uri)}"
        self._failures = self._failures + 1 if error else 0
        if error and self._failures == AWAY_AFTER:
            self._away = True
            self.warn(
                f"{server} does not answer ({reason_of(root_of(error))}). Training continues, and the journal keeps "
                "everything until the server is back."
            )
        elif not error and self._away:
            self._away = False
            self.warn(f"{server} is back")

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = find_experiment(self.client, self._experiment)
        if found is None:
            location = (self._home / ARTIFACTS).resolve().as_uri() if is_sqlite(self.uri) else None
            try:
                return str(
                    self.client.create_experiment(
                        self._experiment.name, artifact_location=location, tags=experiment_tags()
                    )
                )
            except MlflowException:  # another process was faster
                found = find_experiment(self.client, self._experiment)
                if found is None:
                    raise
        check_stage(self.uri, found)
        self._follow_move(found.artifact_location)
        describe_experiment(self.client, found)
        return str(found.experiment_id)

    def _follow_move(self, location: str) -> None:
        """Point the database of a moved or copied home to the files of this home."""
        home, (before, _, name) = self._home.resolve(), location.rpartition("/")
        ours = is_sqlite(self.uri) and sqlite_file(self.uri).resolve().parent == home
        if not ours or name != ARTIFACTS or not before.startswith("file:") or before == home.as_uri():
            return
        moved = url2pathname(urlsplit(before).path)
        relocate(sqlite_file(self.uri), {f"{before}/": f"{home.as_uri()}/", f"{moved}/": f"{home}/"})
        self.warn(f"this home was moved from {moved}. MLflow now looks for its files in {home}.")


def relocate(file: Path, moved: Mapping[str, str]) -> None:
    """Replace the beginnings of artifact locations in the MLflow database `file`, from old ones to new ones."""
    import sqlalchemy as sa

    engine = sa.create_engine(sqlite_url(file), poolclass=sa.NullPool)
    with engine.begin() as connection:
        present = [name for name in LOCATIONS if sa.inspect(connection).has_table(name)]
        for name, (old, new) in product(present, moved.items()):
            column: sa.ColumnClause[str] = sa.column(LOCATIONS[name])
            table = sa.table(name, column)
            value = sa.literal(new).concat(sa.func.substr(column, len(old) + 1))
            connection.execute(sa.update(table).where(column.startswith(old, autoescape=True)).values({column: value}))


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Allow one process at a time to create a sqlite store: MLflow fails if two do so."""
    with filelock.FileLock(f"{sqlite_file(uri)}.lock") if is_sqlite(uri) else contextlib.nullcontext():
        yield


def _create_sqlite(uri: str) -> None:
    """Create a new sqlite store under another name, then link it into place.

    MLflow may not be able to continue a database whose creation was killed. An existing file or link is left to MLflow.
    """
    if not is_sqlite(uri) or "?" in uri:
        return
    file = sqlite_file(uri)
    aside = f".{file.name}.creating-"
    _remove(file.parent, aside)
    if os.path.lexists(file):
        return
    for suffix in ("-journal", "-wal", "-shm"):  # of a removed database: sqlite would replay them into this one
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    silence()
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(aside + uuid.uuid4().hex[:8])
    try:
        store = SqlAlchemyStore(sqlite_url(new), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        try:
            file.hardlink_to(new)
        except FileExistsError:
            pass  # another process was faster
        except OSError:  # a file system without hard links
            new.replace(file)
    finally:
        _remove(file.parent, aside)


def _remove(folder: Path, prefix: str) -> None:
    """Remove the files of `folder` whose names start with `prefix`: a database and sqlite's journal of it."""
    for file in folder.glob(f"{glob.escape(prefix)}*"):
        file.unlink()
