"""The journal: every run on disk first, whatever becomes of the tracking server.

A run is a folder of `SWEEPER_HOME/journal`:

    events.jsonl    one JSON object a line, appended and fsynced: start, epoch, end
    artifacts/      files as they will appear in MLflow, each written aside and renamed
    upload.json     how far the uploader has come (tracking.py)
    .writer         locked by the process that writes the run, for as long as it lives

The times in it are those of the events, so that replaying it gives the same metrics again.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import filelock

from sweeper.errors import SweeperError, UsageError

THREADS_TAG: Final = "sweeper.threads"  # of a run: threads of its computations
ENGINE_TAG: Final = "sweeper.engine"
STACKING: Final = "fused"  # the engine whose trainings depend on those that they are stacked with
# What the bits of a training depend on besides its parameters.
SURROUNDINGS: Final = (
    THREADS_TAG, ENGINE_TAG, "sweeper.hardware", "sweeper.versions", "mlflow.source.git.commit", "sweeper.git.changed",
)  # fmt: skip
EVENTS: Final = "events.jsonl"
ARTIFACTS: Final = "artifacts"
WEIGHTS: Final = "model/state.safetensors"  # among them
WRITER: Final = ".writer"
FSYNCS: Final = 16  # at a time
FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"  # MLflow's names


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it starts.

    `key` identifies it for ever: starting the same key again continues the same run.
    """

    key: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
    folder: str  # below the journal's root, such as "demo/0007"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None  # an MLflow run that exists already


class RunLog(Protocol):
    """Where one run writes what happens to it."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one epoch; a step that is recorded already stays as it is."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the outcome: FINISHED, FAILED or KILLED."""


class Recorded(NamedTuple):
    """What is recorded of a finished run: the metrics of each epoch by its number; metrics and tags of its end."""

    epochs: dict[int, dict[str, float]]
    final: dict[str, float]
    tags: dict[str, str]


class Record(NamedTuple):
    """A run as its last attempt was recorded, to be trained again: parameters, tags, and the metrics of each epoch by
    its number.

    `earlier` has the epochs that an attempt before it recorded, or may have, whose bits may have been others.
    """

    params: dict[str, str]
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]
    earlier: dict[int, dict[str, float]]


class Tracker(Protocol):
    """Where runs are recorded."""

    def recorded(self, run: RunInfo) -> Recorded | None:
        """What is recorded of the run, or None if it is not there or has not finished."""

    def start(self, run: RunInfo) -> RunLog:
        """Begin, or continue, a run."""

    def together(self) -> AbstractContextManager[None]:
        """Within the block, what happens to runs may be recorded late, but not later than its end."""

    def reconcile(self, below: str) -> None:
        """End, as killed, the runs below a folder that processes which are gone left without an end."""

    def catch_up(self, below: str) -> None:
        """Let arrive what earlier processes recorded below a folder and could not bring where it belongs."""

    def check(self) -> None:
        """Raise if nothing that is recorded can ever arrive."""

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds until all has arrived; the number of runs that have not."""


class NullLog:
    """Forgets everything."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Forget."""

    def artifact(self, name: str, content: bytes) -> None:
        """Forget."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Forget."""


class NullTracker:
    """No tracking."""

    def recorded(self, run: RunInfo) -> Recorded | None:
        """Nothing."""
        return None

    def start(self, run: RunInfo) -> RunLog:
        """A log that forgets everything."""
        return NullLog()

    def together(self) -> AbstractContextManager[None]:
        """Nothing is late."""
        return contextlib.nullcontext()

    def reconcile(self, below: str) -> None:
        """Nothing was left."""

    def catch_up(self, below: str) -> None:
        """Nothing was recorded."""

    def check(self) -> None:
        """Nothing can go wrong."""

    def close(self, timeout: float) -> int:
        """Nothing to wait for."""
        return 0


class JournalTracker:
    """Records runs on disk, to be uploaded by whoever calls `sweeper sync`, or never."""

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._warn = warn
        self._late: dict[Path, JournalLog] | None = None  # by folder, those to settle at the end of a block
        self._settling = ThreadPoolExecutor(FSYNCS, "journal-fsync")  # starts no thread before it needs one

    def start(self, run: RunInfo) -> JournalLog:
        """Begin, or continue, the run's folder."""
        return self._log(run)

    def _log(self, run: RunInfo, **options: Any) -> JournalLog:
        folder = self.root / run.folder
        if earlier := (self._late or {}).get(folder):
            earlier.settle()  # an attempt that ended in this block: it holds the folder until its end is written
        return JournalLog(folder, run, late=self._postpone, **options)

    def _postpone(self, log: JournalLog) -> bool:
        if self._late is None:
            return False
        self._late[log.folder] = log
        return True

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, writing waits for its end: one write and one fsync a run, and of many runs at a time, as
        the file system joins fsyncs.

        Raises:
            OSError: what one of the runs had to record could not be written; all that could be was.
        """
        self._late = {}
        try:
            yield
        finally:
            late, self._late = list(self._late.values()), None
            if len(late) == 1:
                late[0].settle()
            else:
                ended = [self._settling.submit(log.settle) for log in late]
                for error in [each.exception() for each in ended]:
                    if error:
                        raise error

    def recorded(self, run: RunInfo) -> Recorded | None:
        """What the journal holds of the run, if it finished; another one may lie in its folder."""
        events = read_events(self.root / run.folder)
        if not events or events[0]["key"] != run.key:
            return None
        if events[-1]["event"] != "end" or events[-1]["status"] != FINISHED:
            return None
        return Recorded(_by_step(events), events[-1]["metrics"], events[-1]["tags"])

    def reconcile(self, below: str) -> None:
        """End, in the journal, what processes that are gone left without an end."""
        end_all_abandoned(self.root / below, self._warn)

    def catch_up(self, below: str) -> None:
        """Everything is where it belongs."""

    def check(self) -> None:
        """Nothing is sent, so nothing can fail to arrive."""

    def close(self, timeout: float) -> int:
        """Everything is on disk already."""
        return 0


class JournalLog:
    """One run's folder, being written."""

    def __init__(
        self,
        folder: Path,
        run: RunInfo,
        written: Callable[[Path], None] = lambda _: None,
        store: str | None = None,
        late: Callable[[JournalLog], bool] = lambda _: False,
    ) -> None:
        self.folder = folder
        self._written, self._postpone = written, late
        self._lines: list[bytes] = []  # of events, and files with their names: what is to be written
        self._files: dict[str, bytes] = {}
        self._started = self._ended = False
        self._lock = _hold(folder)
        _cut_torn_line(folder / EVENTS)
        earlier = read_events(folder)
        if earlier and earlier[0]["key"] != run.key:  # of a study that had this name before
            self._lock.release()
            folder.rename(folder.with_name(f"{folder.name}.{time.time_ns()}"))
            self._lock = _hold(folder)
            earlier = []
        (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
        remove_parts(folder / ARTIFACTS)
        self._steps = {e["step"] for e in earlier if e["event"] == "epoch"}
        attempt = 1 + sum(e["event"] == "start" for e in earlier)
        self._note("start", key=run.key, name=run.name, params=dict(run.params), description=run.description,
                   tags={**run.tags, "sweeper.attempt": str(attempt)}, dataset=dict(run.dataset),
                   run_id=run.run_id, store=store)  # fmt: skip

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one epoch, unless the step is there already."""
        if step not in self._steps:
            self._note("epoch", step=step, metrics=dict(metrics))
            self._steps.add(step)

    def artifact(self, name: str, content: bytes) -> None:
        """Write a file aside, fsync it, and rename it into place."""
        self._files[name] = content
        if not self._postpone(self):
            self.settle()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Append the outcome, after the run's history beside it as a CSV file."""
        line = _line("end", status=status, metrics=dict(metrics), tags=dict(tags))
        self._ended = True
        self._add(line)

    def settle(self) -> None:
        """Write what has not been: the files first, so that an end has them; then the events, in one write and fsync.

        Raises:
            OSError: it cannot be written; what was to be is forgotten, but for the start of the run.
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
            write_whole(self.folder / ARTIFACTS / name, content)
        if lines:
            _append_line(self.folder / EVENTS, b"".join(lines))
            self._lines, self._started = [], True
            self._written(self.folder)

    def _note(self, event: str, **fields: Any) -> None:
        self._add(_line(event, **fields))

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._postpone(self):
            self.settle()


def _line(event: str, **fields: Any) -> bytes:
    """An event of now.

    Raises:
        ValueError: a number is not finite.
    """
    fields = {"event": event, "time": time.time_ns() // 1_000_000, **fields}
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def _append_line(path: Path, line: bytes) -> None:
    """Append all of `line`, or of several, and fsync, or, on a full disk, append nothing of it."""
    with path.open("ab", buffering=0) as stream:
        before = stream.seek(0, os.SEEK_END)
        try:
            if stream.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(before)
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that nobody ever reads a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what other processes, which were killed, have written aside and not renamed."""
    for part in folder.glob("**/.*.part"):
        if not part.name.endswith(f".{os.getpid()}.part"):
            part.unlink(missing_ok=True)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first, without a last line that is not whole.

    Raises:
        SweeperError: a line of the file is damaged.
    """
    path = folder / EVENTS
    if not path.exists():
        return []
    content = path.read_bytes()
    return [
        _event(path, number, line)
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1)
    ]


def _event(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        event = None
    if not isinstance(event, dict):
        raise SweeperError(f"{path}: line {number} is damaged; restore the file from a copy, or move its folder away")
    return event


def read_all_events(root: Path, warn: Callable[[str], None]) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Every run below `root` with its events, in the order of their names; of a damaged one only a warning."""
    for folder in run_folders(root):
        try:
            yield folder, read_events(folder)
        except SweeperError as error:
            warn(str(error))


def read_record(folder: Path) -> Record:
    """The run in `folder`, as far as its last attempt came.

    Raises:
        UsageError: the folder holds no run.
    """
    attempts = _attempts(read_events(folder))
    if not attempts:
        raise UsageError(f"{folder}: holds no run; name an MLflow run, or a folder below SWEEPER_HOME/journal")
    last = attempts[-1]
    tags = {name: value for event in last for name, value in event.get("tags", {}).items()}
    epochs: dict[int, dict[str, float]] = {}
    earlier: dict[int, dict[str, float]] = {}
    for attempt in attempts:
        same = attempt is last or _trained_alike(attempt[0], last[0])
        (epochs if same else earlier).update(_by_step(attempt))
    return Record(last[0]["params"], tags, epochs, earlier)


def _attempts(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events of each attempt, from its start on."""
    starts = [number for number, event in enumerate(events) if event["event"] == "start"]
    return [events[begin:end] for begin, end in itertools.pairwise([*starts, len(events)])]


def _trained_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two attempts, by their starts, trained in the same bits; of stacked ones that cannot be told."""
    tags = [{name: start["tags"].get(name) for name in SURROUNDINGS} for start in (one, other)]
    return one["params"] == other["params"] and tags[0] == tags[1] and tags[0][ENGINE_TAG] != STACKING


def _by_step(events: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    return {e["step"]: e["metrics"] for e in events if e["event"] == "epoch"}


def _cut_torn_line(path: Path) -> None:
    """Remove what a crash left of a line, before anything is appended to it."""
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def history(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The metrics of each epoch, with the epoch's number under `epoch`, in its order."""
    epochs = [
        {"epoch": e["step"], **{sys.intern(name): value for name, value in e["metrics"].items()}}  # names once for all
        for e in events
        if e["event"] == "epoch"
    ]
    return sorted(epochs, key=lambda e: e["epoch"])


def as_csv(epochs: list[dict[str, float]]) -> bytes:
    """One row an epoch, one column a metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(epochs[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epochs)
    return text.getvalue().encode()


def end_abandoned(folder: Path, reason: str = "the process that trained it is gone") -> bool:
    """End the run in `folder` as killed, if it has no end and the process that wrote it is gone; whether it did."""
    events = read_events(folder)
    if not events or events[-1]["event"] == "end":
        return False
    try:
        with filelock.FileLock(folder / WRITER, timeout=0):
            _cut_torn_line(folder / EVENTS)
            if read_events(folder)[-1]["event"] == "end":
                return False
            tags = {"sweeper.state": "killed", "sweeper.reason": reason}
            _append_line(folder / EVENTS, _line("end", status=KILLED, metrics={}, tags=tags))
    except filelock.Timeout:
        return False
    return True


def end_all_abandoned(root: Path, warn: Callable[[str], None]) -> None:
    """End every run below `root` whose process is gone without having ended it."""
    for folder, events in read_all_events(root, warn):
        if events and events[-1]["event"] != "end":
            end_abandoned(folder)


def _hold(folder: Path) -> filelock.FileLock:
    """Be the only process that writes the run in `folder`, until it ends or this process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / WRITER, thread_local=False)  # another thread may write the end
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SweeperError(
            f"{folder}: another process writes this run; give the two commands different studies or SWEEPER_HOMEs"
        ) from None
    return lock


def run_folders(root: Path) -> list[Path]:
    """Every run below `root`, in the order of their names."""
    return sorted(path.parent for path in root.glob(f"**/{EVENTS}"))
