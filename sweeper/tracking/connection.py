"""The connection to one MLflow store: its database, its experiment, and whether it answers."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import filelock

from sweeper.core.errors import SweeperError
from sweeper.tracking.client import open_client
from sweeper.tracking.patience import Patient, Wait, retrying
from sweeper.tracking.store import EXPERIMENT, check_stage, hide_password, reason_of, sqlite_file, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

AWAY_AFTER: Final = 5  # failures in a row: a second and a half

Warn = Callable[[str], None]


class Connection:
    """One MLflow store, and the experiment in it that holds our runs."""

    def __init__(self, uri: str, home: Path, warn: Warn) -> None:
        self.uri = store_uri(uri)
        self.experiment_id = ""
        self._home = home
        self._warn = warn
        self._client: MlflowClient | None = None
        self._failures = 0
        self._away = False

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, once `connect` has made it."""
        assert self._client is not None, "connect() comes first"
        return self._client

    def patient(self, wait: Wait) -> Patient:
        """The client, with each call repeated until the server answers."""
        return Patient(self.client, self.report, wait)

    def connect(self, wait: Wait = time.sleep) -> None:
        """Import MLflow, create its database where there is none, and find or create the experiment.

        Tries again, after `wait`, for as long as the server is away.

        Raises:
            SweeperError: the experiment was deleted, or the store is of another schema.
        """
        with _alone(self.uri):
            try:
                _create_sqlite(self.uri)
                self._client = open_client(self.uri)
                self.experiment_id = retrying(self._find_experiment, self.report, wait)
            except SweeperError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow's own, or SQLAlchemy's for a file that is no database
                raise SweeperError(f"tracking store {hide_password(self.uri)}: {reason_of(error)}") from None

    def report(self, error: Exception | None) -> None:
        """Warn once that the server is away and once that it is back. A few failed calls are not worth a warning."""
        self._failures = 0 if error is None else self._failures + 1
        if error is not None and self._failures >= AWAY_AFTER and not self._away:
            self._warn(
                f"tracking server {hide_password(self.uri)} does not answer ({reason_of(error)[:120]}). "
                "Training continues, and the journal keeps everything until the server is back."
            )
        elif error is None and self._away:
            self._warn(f"tracking server {hide_password(self.uri)} is back")
        self._away = error is not None and (self._away or self._failures >= AWAY_AFTER)

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            location = (self._home / "mlartifacts").resolve().as_uri() if self.uri.startswith("sqlite") else None
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
            except MlflowException:  # another process was faster
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        check_stage(self.uri, found.experiment_id, found.lifecycle_stage)
        return str(found.experiment_id)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time create a sqlite store: MLflow's own creation fails where two do it at once."""
    if not uri.startswith("sqlite"):
        yield
        return
    with filelock.FileLock(f"{sqlite_file(uri)}.lock"):
        yield


def _create_sqlite(uri: str) -> None:
    """Create a new sqlite store under another name, then link it into place.

    A process that is killed during MLflow's migrations leaves a database from which they may not be able to continue.
    A file or link that is already there is left to MLflow.
    """
    file = sqlite_file(uri)
    if not uri.startswith("sqlite") or "?" in uri:
        return
    aside = f".{file.name}.creating-"
    _remove(file.parent, aside)
    if os.path.lexists(file):
        return
    for suffix in ("-journal", "-wal", "-shm"):  # of a removed database: sqlite would replay them into this one
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(aside + uuid.uuid4().hex[:8])
    try:
        store = SqlAlchemyStore(f"sqlite:///{new}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
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
    """Remove the files of `folder` whose names begin with `prefix`: a database, and the journal that sqlite keeps."""
    for file in folder.glob(f"{glob.escape(prefix)}*"):
        file.unlink()
