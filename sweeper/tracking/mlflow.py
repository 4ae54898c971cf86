"""The tracker that uploads to MLflow while runs go on, and the upload afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.core.errors import ServiceUnreachable, SweeperError
from sweeper.tracking.base import RunInfo
from sweeper.tracking.fetching import _read_state
from sweeper.tracking.journal import JournalLog, JournalTracker, end_all_abandoned
from sweeper.tracking.reading import read_all_events
from sweeper.tracking.store import hide_password, preflight, reason_of
from sweeper.tracking.upload import SYNC_PATIENCE, Draw, Uploader, Warn


class MlflowTracker(JournalTracker):
    """The journal, and a thread that uploads it to MLflow as it grows."""

    def __init__(self, root: Path, uri: str, draw: Draw, warn: Warn) -> None:
        super().__init__(root, warn)
        self.uploader = Uploader(uri, root.parent, draw, warn)
        self._pending: dict[Path, int] = {}  # folder: how often it was written to
        self._refused: set[Path] = set()
        self._carried: set[Path] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._connected = False
        self._fatal: SweeperError | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._thread.start()

    def start(self, run: RunInfo) -> JournalLog:
        """Begin, or continue, the run's folder, and upload what is written to it."""
        store = hide_password(self.uploader.uri)
        return self._log(run, written=self._notify, store=store)

    def check(self) -> None:
        """Raise what makes every upload impossible, such as a deleted experiment."""
        if self._fatal is not None:
            raise self._fatal

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the uploads; the number of runs that have not arrived."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        for folder in self._carried - self._pending.keys():
            self.uploader.tidy(folder)
        return len(self._pending) + len(self._refused)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until MLflow answers and has everything written so far; whether it has."""
        with self._wake:
            self._wake.wait_for(lambda: (self._connected and not self._pending) or self._fatal, timeout)
            return self._connected and not self._pending and not self._refused

    def reconcile(self, below: str) -> None:
        """End what processes that are gone left without an end, also in MLflow if it was meant for this store.

        That is also where a run has its end in the journal, and its process was gone before MLflow had it.
        """
        super().reconcile(below)
        store = hide_password(self.uploader.uri)
        for folder, events in behind(self.root / below, self.uploader.uri):
            if events[-1]["event"] == "end" and events[0].get("store") == store:
                self._notify(folder)

    def catch_up(self, below: str) -> None:
        """Upload what earlier processes wrote below the folder `below` and could not bring there."""
        for folder, _ in behind(self.root / below, self.uploader.uri):
            self._notify(folder)

    def _notify(self, folder: Path) -> None:
        with self._wake:
            self._pending[folder] = self._pending.get(folder, 0) + 1
            self._wake.notify_all()

    def _run(self) -> None:
        try:
            self.uploader.connect()
        except SweeperError as error:
            with self._wake:
                self._fatal = error
                self._wake.notify_all()
            return
        with self._wake:
            self._connected = True
            self._wake.notify_all()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                folder, writes = next(iter(self._pending.items()))
            self._upload(folder)
            with self._wake:
                if self._pending[folder] == writes:  # nothing was written meanwhile
                    del self._pending[folder]
                self._wake.notify_all()

    def _upload(self, folder: Path) -> None:
        try:
            self.uploader.upload(folder, time.sleep)
            self._refused.discard(folder)
            self._carried.add(folder)
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not end the uploads of the others
            if folder in self._refused:
                return
            self._refused.add(folder)
            self._warn(f"{folder}: MLflow refuses this run ({reason_of(error)}); it stays in the journal")


def sync(root: Path, uri: str, home: Path, draw: Draw, warn: Warn) -> int:
    """Upload every run of the journal at `root` that has not arrived; the number of runs carried.

    A run without an end whose process is gone is ended as killed; one that is being written is carried as far as it is.
    Artifacts of a new sqlite store go below `home`.

    Raises:
        ServiceUnreachable: the server does not answer.
    """
    preflight(uri)
    uploader = Uploader(uri, home, draw, warn)
    deadline = time.monotonic() + SYNC_PATIENCE

    def wait(seconds: float) -> None:
        if time.monotonic() > deadline:
            raise ServiceUnreachable(f"tracking server {hide_password(uri)} went away; `sweeper sync` again continues")
        time.sleep(seconds)

    uploader.connect(wait)
    end_all_abandoned(root, warn)
    waiting = [folder for folder, _ in behind(root, uri)]
    refused = []
    for folder in waiting:
        try:
            uploader.upload(folder, wait)
            uploader.tidy(folder)
        except SweeperError:
            raise
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not keep the others
            refused.append(folder)
            warn(f"{folder}: MLflow refuses this run ({reason_of(error)}); it stays in the journal")
    if refused:
        raise SweeperError(f"{len(waiting) - len(refused)} runs were carried, {len(refused)} were refused")
    return len(waiting)


def behind(root: Path, uri: str) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The runs below `root` of which the store `uri` lacks a part, with their events; damaged ones are passed over, as
    whoever ends abandoned runs has warned of them."""
    for folder, events in read_all_events(root, lambda _: None):
        if len(events) > _read_state(folder, uri)["events"]:
            yield folder, events
