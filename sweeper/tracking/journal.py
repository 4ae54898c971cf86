"""The journal: every run on disk first, even if the tracking server is down.

A run is a folder of `SWEEPER_HOME/journal`:

    events.jsonl    one JSON object per line, appended and fsynced: start, epoch, end
    artifacts/      files as MLflow will show them, each written aside and renamed
    upload.json     how far the run was uploaded (fetching.py)
    .writer         locked by the process that writes the run, for as long as it lives

Each event has its time, so that uploading it again gives MLflow the same metrics.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import filelock

from sweeper.core.errors import RecordError, SweeperError
from sweeper.core.files import remove_parts
from sweeper.core.inside import lock_inside, make_inside, open_inside, read_inside, write_inside
from sweeper.tracking.base import FINISHED, KILLED, Recorded, RunInfo, RunLog, Tracker
from sweeper.tracking.reading import ARTIFACTS, EVENTS, as_csv, history, read_all_events, read_epochs, read_events
from sweeper.tracking.schema import MOST_EVENTS

WRITER: Final = ".writer"
FSYNCS: Final = 16  # at a time
Measure = Callable[[], Mapping[str, float]]
ELSEWHERE: Final = {"device", "precision", "split"}  # that may change; a split may have its former name


class JournalTracker(Tracker):
    """Records runs on disk. `sweeper sync` uploads them later."""

    store: str | None = None  # that the runs are uploaded to, without its password

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda _: None, measure: Measure = dict) -> None:
        self.root = root
        self._warn = warn
        self._measure = measure  # what is recorded besides the metrics of each epoch
        self._late: dict[Path, JournalLog] | None = None  # by folder, the logs to settle at the end of a block
        self._settling = ThreadPoolExecutor(FSYNCS, "journal-fsync")  # starts no thread before it needs one

    def start(self, run: RunInfo) -> JournalLog:
        """Start, or continue, the run's folder."""
        folder = self.root / run.folder
        self.root.mkdir(parents=True, exist_ok=True)
        make_inside(self.root.resolve(), run.folder)
        if earlier := (self._late or {}).get(folder):
            earlier.settle()  # an attempt that ended in this block: it holds the folder until its end is written
        return JournalLog(folder, run, self.written, self.store, self._postpone, self._measure)

    def written(self, folder: Path) -> None:
        """Called when a run's folder has new events on disk."""

    def _postpone(self, log: JournalLog) -> bool:
        if self._late is None:
            return False
        self._late[log.folder] = log
        return True

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write at the end of the block, with one fsync per run, and many runs at a time.

        Raises:
            OSError: the events of one run could not be written. Those of all others were.
        """
        self._late = {}
        try:
            yield
        finally:
            late, self._late = list(self._late.values()), None
            if len(late) == 1:
                late[0].settle()
            else:
                ended = [self._settling.submit(log.settle) for log in late]  # the file system joins their fsyncs
                for error in [each.exception() for each in ended]:
                    if error:
                        raise error

    def recorded(self, run: RunInfo) -> Recorded | None:
        """Return the record of the run, or None if it has not finished, or its folder holds another run."""
        events = read_events(self.root / run.folder)
        if not events or not _continues(run, events):
            return None
        if events[-1]["event"] != "end" or events[-1]["status"] != FINISHED:
            return None
        return Recorded(list(read_epochs(events).values()), events[-1]["metrics"], events[-1]["tags"])

    def reconcile(self, below: str) -> None:
        """End the runs below a folder whose process is gone, as killed."""
        end_all_abandoned(self.root / below, self._warn)


class JournalLog(RunLog):
    """The log of one run, written to its folder."""

    def __init__(
        self,
        folder: Path,
        run: RunInfo,
        written: Callable[[Path], None] = lambda _: None,
        store: str | None = None,
        late: Callable[[JournalLog], bool] = lambda _: False,
        measure: Measure = dict,
    ) -> None:
        self.folder = folder
        self._measure = measure
        self._written, self._postpone = written, late
        self._lines: list[bytes] = []  # events to write
        self._files: dict[str, bytes] = dict(run.files)  # files to write, by name
        self._started = self._ended = False
        self._lock = _hold(folder)
        try:
            _cut_torn_line(folder)
            earlier = read_events(folder)
        except BaseException:
            self._lock.release()
            raise
        key = earlier[0]["key"] if earlier else run.key
        if earlier and not _continues(run, earlier):  # of a study that had this name, or had more trials, before
            self._lock.release()
            folder.rename(folder.with_name(f"{folder.name}.{time.time_ns()}"))
            self._lock = _hold(folder)
            key = f"{run.key}@{time.time_ns()}" if _key(earlier) == run.key else run.key  # another run in MLflow
            earlier = []
        make_inside(folder, ARTIFACTS)
        remove_parts(folder / ARTIFACTS)
        self._steps = {e["step"] for e in earlier if e["event"] == "epoch"}
        attempt = 1 + sum(e["event"] == "start" for e in earlier)
        self._add(_line("start", key=key, name=run.name, params=dict(run.params), description=run.description,
                        tags={**run.tags, "sweeper.attempt": str(attempt)}, dataset=dict(run.dataset),
                        run_id=run.run_id, store=store))  # fmt: skip

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one epoch, unless the step is there already."""
        if step not in self._steps:
            self._add(_line("epoch", step=step, metrics={**metrics, **self._measure()}))
            self._steps.add(step)

    def artifact(self, name: str, content: bytes) -> None:
        """Write a file aside, fsync it, and rename it into place."""
        self._files[name] = content
        if not self._postpone(self):
            self.settle()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write the run's history as a CSV file, then append the outcome."""
        line = _line("end", status=status, metrics=dict(metrics), tags=dict(tags))
        self._ended = True
        self._add(line)

    def settle(self) -> None:
        """Write everything that is still in memory: the files, then the events with one fsync.

        Raises:
            OSError: it cannot be written. Everything but the start of the run is then discarded.
        """
        ended, self._ended = self._ended, False
        try:
            self._write(ended)
        finally:
            if ended:
                self._lock.release()

    def _write(self, ended: bool) -> None:
        files, lines = self._files, self._lines
        self._files, self._lines = {}, [] if self._started else lines[:1]
        if ended and (epochs := history([*read_events(self.folder), *map(json.loads, lines)])):
            files["curves/history.csv"] = as_csv(epochs)
        for name, content in files.items():
            write_inside(self.folder, f"{ARTIFACTS}/{name}", content)
        if lines:
            _append_line(self.folder, b"".join(lines))
            self._lines, self._started = [], True
            self._written(self.folder)

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._postpone(self):
            self.settle()


def _continues(run: RunInfo, events: list[dict[str, Any]]) -> bool:
    """Return True if `events` are of `run`: the same key, and the same parameters but for where it is computed."""
    params = [e["params"] for e in events if e["event"] == "start"][-1]
    changed = {name for name in params.keys() & run.params.keys() if params[name] != run.params[name]}
    return _key(events) == run.key and changed <= ELSEWHERE


def _key(events: list[dict[str, Any]]) -> str:
    """Return the key that a run was started with, which may have a time after it."""
    return str(events[0]["key"]).partition("@")[0]


def _line(event: str, **fields: Any) -> bytes:
    """Return an event with the current time, or raise a ValueError if a number is not finite."""
    fields = {"event": event, "time": time.time_ns() // 1_000_000, **fields}
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def _append_line(folder: Path, line: bytes) -> None:
    """Append one or several whole events and fsync. On a full disk, append nothing."""
    with os.fdopen(open_inside(folder, EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab", buffering=0) as stream:
        before = stream.seek(0, os.SEEK_END)
        try:
            if stream.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / EVENTS))
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(before)
            raise


def _cut_torn_line(folder: Path) -> None:
    """Remove an event that a crash left incomplete, before another is appended."""
    with contextlib.suppress(FileNotFoundError):
        content = read_inside(folder, EVENTS, MOST_EVENTS)
        with os.fdopen(open_inside(folder, EVENTS, os.O_RDWR), "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def end_all_abandoned(root: Path, warn: Callable[[str], None]) -> None:
    """End every run below `root` that has no end and whose process is gone, as killed. Warn of one that is damaged."""
    for folder, events in read_all_events(root, warn):
        if events and events[-1]["event"] != "end":
            try:
                with contextlib.suppress(filelock.Timeout), lock_inside(folder, WRITER, timeout=0):
                    _end_abandoned(folder)
            except RecordError as error:
                warn(str(error))


def _end_abandoned(folder: Path) -> None:
    _cut_torn_line(folder)
    if read_events(folder)[-1]["event"] != "end":  # nor has it ended meanwhile
        tags = {"sweeper.state": "killed", "sweeper.reason": "the process that trained it is gone"}
        _append_line(folder, _line("end", status=KILLED, metrics={}, tags=tags))


def _hold(folder: Path) -> filelock.FileLock:
    """Lock the run in `folder` until the run or this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_inside(folder, WRITER, thread_local=False)  # another thread may write the end
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SweeperError(
            f"{folder}: another process is writing this run. Use another study or SWEEPER_HOME for one of them."
        ) from None
    return lock
