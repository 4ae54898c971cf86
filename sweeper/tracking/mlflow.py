"""MLflow: a thread that uploads the journal to a tracking server, so that training never waits for MLflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sweeper.core.environment import OURS, MlflowExperiment
from sweeper.core.errors import RecordError, ServiceUnreachable, SweeperError
from sweeper.core.text import counted
from sweeper.tracking.connection import Connection, Warn
from sweeper.tracking.fetching import read_state
from sweeper.tracking.freeing import Freed, free
from sweeper.tracking.journal import JournalTracker, Measure, end_all_abandoned
from sweeper.tracking.patience import retrying
from sweeper.tracking.reading import read_all_events
from sweeper.tracking.registry import Registry
from sweeper.tracking.store import hide_password, preflight, reason_of
from sweeper.tracking.upload import Figures, check_count, forget_all, forget_lost, upload

SYNC_PATIENCE: Final = 120.0  # seconds


class MlflowTracker(JournalTracker):
    """The journal, and a thread that uploads it to MLflow as it grows."""

    def __init__(
        self, root: Path, uri: str, draw: Figures, warn: Warn, measure: Measure = dict,
        experiment: MlflowExperiment = OURS,
    ) -> None:  # fmt: skip
        super().__init__(root, warn, measure)
        self.connection = Connection(uri, root.parent, warn, experiment)
        self.registry = Registry(self.connection)
        self.store = hide_password(self.connection.uri)
        self._draw = draw
        self._pending: dict[Path, int] = {}  # by folder, how often it was written to
        self._refused: set[Path] = set()
        self._unchecked: set[Path] = set()  # folders below which the store may have lost runs
        self._wake = threading.Condition()
        self._closing = False
        self._connected = False
        self._fatal: SweeperError | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._thread.start()

    def written(self, folder: Path) -> None:
        """Let the thread upload the run's folder."""
        with self._wake:
            self._pending[folder] = self._pending.get(folder, 0) + 1
            self._wake.notify_all()

    def check(self) -> None:
        """Raise the error that makes every upload impossible, such as a deleted MLflow experiment."""
        if self._fatal is not None:
            raise self._fatal

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the uploads, and return the number of runs that are not in MLflow."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        return len(self._pending) + len(self._refused)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds, and return True if MLflow then has everything written so far."""
        with self._wake:
            self._wake.wait_for(lambda: (self._connected and not self._pending) or self._fatal, timeout)
            return self._connected and not self._pending and not self._refused

    def reconcile(self, below: str) -> None:
        """End the runs whose process is gone in the journal and, if they were meant for this store, in MLflow."""
        super().reconcile(below)
        for folder, events in behind(self.root / below, self.connection.uri):
            if events[-1]["event"] == "end" and events[0].get("store") == self.store:
                self.written(folder)

    def catch_up(self, below: str) -> None:
        """Upload the runs below a folder that earlier processes recorded and did not upload."""
        for folder, _ in behind(self.root / below, self.connection.uri, self._warn):
            self.written(folder)
        with self._wake:
            self._unchecked.add(self.root / below)
            self._wake.notify_all()

    def _run(self) -> None:
        try:
            self.connection.connect()
            with self._wake:
                self._connected = True
                self._wake.notify_all()
            self._upload_all()
        except Exception as error:  # noqa: BLE001 - whatever ends this thread is reported at once, as it ends all uploads
            text = f"the uploads to MLflow ended: {reason_of(error)}"
            with self._wake:
                self._fatal = error if isinstance(error, SweeperError) else SweeperError(text)
                self._wake.notify_all()

    def _upload_all(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._unchecked or self._closing)
                if not self._pending and not self._unchecked:
                    return
                unchecked = self._unchecked.pop() if self._unchecked else None
                folder, writes = next(iter(self._pending.items()), (None, 0))
            if unchecked is not None:
                for lost in self._lost_below(unchecked):
                    self.written(lost)
            if folder is None:
                continue
            self._upload(folder)
            with self._wake:
                if self._pending[folder] == writes:  # nothing was written meanwhile
                    del self._pending[folder]
                self._wake.notify_all()

    def _lost_below(self, folder: Path) -> list[Path]:
        lost = retrying(lambda: forget_lost(self.connection, folder), self.connection.report, time.sleep)
        if lost:
            self._warn(f"{hide_password(self.connection.uri)} has lost {counted(len(lost), 'run')}. Uploading again.")
        return lost

    def _upload(self, folder: Path) -> None:
        try:
            upload(self.connection, self._draw, folder, time.sleep)
            self._refused.discard(folder)
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not end the uploads of the others
            if folder in self._refused:
                return
            self._refused.add(folder)
            self._warn(_refused_run(folder, error))


def _refused_run(folder: Path, error: Exception) -> str:
    if isinstance(error, RecordError):
        return f"{error} It stays in the journal."
    return f"{folder}: MLflow refuses this run ({reason_of(error)}). It stays in the journal."


def sync(
    root: Path, uri: str, home: Path, draw: Figures, warn: Warn, *, again: bool = False,
    experiment: MlflowExperiment = OURS,
) -> int:  # fmt: skip
    """Upload every run of the journal at `root` that MLflow does not have whole, and return the number of runs.

    End runs whose process is gone, as killed. Upload a run that is being written as far as it is. Artifacts of a new
    sqlite store go below `home`. With `again`, upload every run from its first event, whatever is noted.

    Raises:
        ServiceUnreachable: the server does not answer.
        SweeperError: MLflow refused some of the runs.
    """
    preflight(uri, experiment)
    connection = Connection(uri, home, warn, experiment)
    deadline = time.monotonic() + SYNC_PATIENCE

    def wait(seconds: float) -> None:
        if time.monotonic() > deadline:
            raise ServiceUnreachable(
                f"tracking server {hide_password(uri)} stopped answering. Run `sweeper sync` again to continue."
            )
        time.sleep(seconds)

    damaged: list[str] = []

    def name(text: str) -> None:
        damaged.append(text)
        warn(text)

    connection.connect(wait)
    end_all_abandoned(root, name)
    if again:
        forget_all(root, connection.uri)
    else:
        retrying(lambda: forget_lost(connection, root), connection.report, wait)
    waiting = [folder for folder, _ in behind(root, connection.uri, name)]
    uploaded = 0
    refused: list[Path] = []
    for folder in waiting:
        try:
            uploaded += upload(connection, draw, folder, wait)
        except RecordError as error:
            name(str(error))
        except SweeperError:
            raise
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not hold up the others
            refused.append(folder)
            warn(_refused_run(folder, error))
    if refused or damaged:
        counts = [f"MLflow refused {len(refused)}"] if refused else []
        counts += [f"{counted(len(damaged), 'record')} left out"] if damaged else []
        raise SweeperError(f"uploaded {counted(uploaded, 'run')}. {' and '.join(counts)}, see above.")
    return uploaded


def free_disk(root: Path, uri: str, home: Path, warn: Warn, experiment: MlflowExperiment = OURS) -> Freed:
    """Delete from the journal at `root`, which was just uploaded, the files that MLflow is seen to hold."""
    connection = Connection(uri, home, warn, experiment)
    connection.connect()
    return free(connection, root)


def behind(root: Path, uri: str, warn: Warn = lambda _: None) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield the runs below `root` that the store `uri` does not have whole, with their events.

    Warn of a damaged state. Ending abandoned runs has warned of damaged events.
    """
    for folder, events in read_all_events(root, lambda _: None):
        try:
            state = read_state(folder, uri)
            check_count(folder, events, state)
        except RecordError as error:
            warn(str(error))
        else:
            waiting = len(events) > state["events"] or (state.get("files") and events[-1]["event"] == "end")
            if waiting and not state.get("deleted"):
                yield folder, events
