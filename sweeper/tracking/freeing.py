"""Free disk space: delete journal files that the MLflow store lists."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import filelock

from sweeper.core.errors import RecordError, ServiceUnreachable
from sweeper.core.inside import files_inside, lock_inside, remove_inside
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import UPLOADER, read_state
from sweeper.tracking.finding import DELETED
from sweeper.tracking.journal import WRITER
from sweeper.tracking.patience import passing
from sweeper.tracking.reading import ARTIFACTS, read_all_events
from sweeper.tracking.schema import MOST_ARTIFACT
from sweeper.tracking.store import hide_password, reason_of

KEPT: Final = "evaluation/"  # these small files stay, for `sweeper report`


class Freed(NamedTuple):
    """The files that were deleted and their bytes, and the files of uploaded runs that MLflow does not list."""

    files: int = 0
    bytes: int = 0
    kept: int = 0


def size_of(journal: Path) -> int:
    """Return how many bytes of files the runs of a journal hold, apart from their events."""
    size = 0
    for at, _, names in os.walk(journal):
        if ARTIFACTS in Path(at).relative_to(journal).parts:
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # another process may free it
                    size += (Path(at) / name).lstat().st_size
    return size


def free(connection: Connection, journal: Path) -> Freed:
    """Delete the files of runs that have ended, where MLflow lists a file of that name and size for the run.

    Raises:
        ServiceUnreachable: the server stopped answering.
    """
    freed = Freed()
    for folder, events in read_all_events(journal, lambda _: None):  # `sync` has warned of the others
        if not events or events[-1]["event"] != "end":
            continue
        with (
            contextlib.suppress(RecordError, filelock.Timeout),  # it is being written again
            lock_inside(folder, WRITER, timeout=0),
            lock_inside(folder, UPLOADER),
        ):
            state = read_state(folder, connection.uri)
            if len(events) == state["events"]:
                found = _free_run(folder, _held(connection, str(state["run_id"])))
                freed = Freed(*map(sum, zip(freed, found, strict=True)))
    return freed


def _free_run(folder: Path, held: dict[str, int]) -> Freed:
    freed = Freed()
    for name in files_inside(folder, ARTIFACTS, MOST_ARTIFACT):
        short, size = name.removeprefix(f"{ARTIFACTS}/"), (folder / name).lstat().st_size
        if short.startswith(KEPT):
            continue
        if held.get(short) == size:
            remove_inside(folder, name)
            freed = freed._replace(files=freed.files + 1, bytes=freed.bytes + size)
        else:
            freed = freed._replace(kept=freed.kept + 1)
    return freed


def _held(connection: Connection, run_id: str) -> dict[str, int]:
    """Return the files of a run in MLflow, with their sizes; none of a run that is missing or deleted there."""
    try:
        run = connection.client.get_run(run_id).info
        return {} if run.lifecycle_stage == DELETED else dict(_listed(run.artifact_uri, connection.uri))
    except Exception as error:  # noqa: BLE001 - of MLflow, requests, or the storage of the files
        if not passing(error):
            connection.warn_once(f"the files of run {run_id} cannot be listed ({reason_of(error)}).")
            return {}
        raise ServiceUnreachable(
            f"tracking server {hide_password(connection.uri)} stopped answering ({reason_of(error)}). Run the same "
            "command "
            "again to continue."
        ) from None


def _listed(uri: str, store: str, below: str = "") -> Iterator[tuple[str, Any]]:
    from mlflow.artifacts import list_artifacts  # the client's asks for what servers before MLflow 3 do not have

    for entry in list_artifacts(f"{uri}/{below}".rstrip("/"), tracking_uri=store):
        name = below + entry.path.rpartition("/")[2]
        if entry.is_dir:
            yield from _listed(uri, store, f"{name}/")
        else:
            yield name, entry.file_size
