"""Read the journal: events, records, histories."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from pydantic import ValidationError

from sweeper.core.errors import RecordError, UsageError
from sweeper.core.inside import MOST_DEPTH, WAY_OUT, read_inside
from sweeper.core.results import EpochResult
from sweeper.tracking.base import FINISHED, SURROUNDINGS, Record
from sweeper.tracking.epochs import STACKED, read_epoch
from sweeper.tracking.schema import EVENT, MOST_EVENTS, MOST_LINE, reason_of

EVENTS: Final = "events.jsonl"
ARTIFACTS: Final = "artifacts"
LONE_SURROGATE: Final = b"\\ud"  # or the first half of a pair
WEIGHTS: Final = "model/state.safetensors"  # among them


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run, oldest first, without a last line that is not whole.

    Raises:
        RecordError: the file is not a regular file, is too large, or has a line that is not an event.
    """
    try:
        content = read_inside(folder, EVENTS, MOST_EVENTS)
    except FileNotFoundError:
        return []
    path = folder / EVENTS
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    events = [_event(path, number, line) for number, line in enumerate(lines, start=1)]
    for number, event in enumerate(events, start=1):
        if number == 1 and event["event"] != "start":
            raise _damaged(path, 1, "the first event is not a start")
        if event.get("key", events[0]["key"]) != events[0]["key"]:
            raise _damaged(path, number, "it starts another run")
    return events


def _event(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE:
        raise _damaged(path, number, f"it has more than {MOST_LINE:,} bytes")
    try:
        return cast("dict[str, Any]", EVENT.validate_json(line))
    except ValidationError as error:
        if LONE_SURROGATE in line and (mended := _without_surrogates(line)) != line:
            return _event(path, number, mended)
        raise _damaged(path, number, reason_of(error)) from None


def _without_surrogates(line: bytes) -> bytes:
    """Replace halves of characters, as in a file's name that is no UTF-8: neither pydantic nor MLflow takes them."""
    try:
        return json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        return line


def _damaged(path: Path, number: int, reason: str) -> RecordError:
    return RecordError(f"{path}: line {number} is damaged ({reason}). {WAY_OUT}")


def read_all_events(root: Path, warn: Callable[[str], None]) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield every run below `root` with its events, in the order of names. Warn of a damaged one instead."""
    for folder in run_folders(root, warn):
        try:
            yield folder, read_events(folder)
        except RecordError as error:
            warn(str(error))


def read_record(folder: Path) -> Record:
    """Return the run in `folder`, or raise a UsageError if there is none."""
    attempts = _attempts(read_events(folder))
    if not attempts:
        raise UsageError(f"{folder} contains no run. Name an MLflow run, or a folder in SWEEPER_HOME/journal.")
    last = attempts[-1]
    tags = {name: value for event in last for name, value in event.get("tags", {}).items()}
    epochs: dict[int, EpochResult] = {}
    earlier: dict[int, EpochResult] = {}
    for attempt in attempts:
        same = attempt is last or _trained_alike(attempt[0], last[0])
        (epochs if same else earlier).update(read_epochs(attempt))
    stacked = any(STACKED in event.get("metrics", {}) for attempt in attempts for event in attempt)
    return Record(last[0]["params"], tags, epochs, earlier, stacked)


def _attempts(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    starts = [number for number, event in enumerate(events) if event["event"] == "start"]
    return [events[begin:end] for begin, end in itertools.pairwise([*starts, len(events)])]


def _trained_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return True if the two attempts with these starts trained in the same bits."""
    tags = [{name: start["tags"].get(name) for name in SURROUNDINGS} for start in (one, other)]
    return one["params"] == other["params"] and tags[0] == tags[1]


def read_epochs(events: list[dict[str, Any]]) -> dict[int, EpochResult]:
    """Return the epochs of a run by number."""
    return {e["step"]: read_epoch(e["step"], e["metrics"]) for e in events if e["event"] == "epoch"}


def history(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return one row per epoch, by its number: the metrics under their stored names, and the number under `epoch`."""
    epochs = [
        {"epoch": e["step"], **{sys.intern(name): value for name, value in e["metrics"].items()}}  # to save memory
        for e in events
        if e["event"] == "epoch"
    ]
    return sorted(epochs, key=lambda e: e["epoch"])


def as_csv(epochs: list[dict[str, float]]) -> bytes:
    """Return the rows of `history` as CSV. An epoch without a metric that another has leaves its cell empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epochs)
    return text.getvalue().encode()


class Ended(NamedTuple):
    """A run that has finished."""

    folder: Path
    key: str
    which: str  # of the runs of its kind: what follows the kind in the key
    time: float  # of its end, in seconds since 1970
    metrics: dict[str, float]
    tags: dict[str, str]
    val_images: Any  # how many it was evaluated on, as its first event has it; None if it does not


def finished_of(root: Path, study: str, kind: str, warn: Callable[[str], None] = lambda _: None) -> Iterator[Ended]:
    """Yield the finished runs of a kind, such as `champion`, in the folder `root` of a study, by the folder's name.

    Leave out those of another study than the one with the identity `study`. Warn of a damaged one instead.
    """
    for folder in sorted(root.glob(f"{kind}-*")):
        try:
            events = read_events(folder)
        except RecordError as error:
            warn(str(error))
            continue
        ends = [event for event in events if event["event"] == "end" and event["status"] == FINISHED]
        if not ends or not events[0]["key"].startswith(f"{study}/{kind}/"):
            continue
        start, end = events[0], ends[-1]
        images = start.get("dataset", {}).get("profile", {}).get("val_images")
        which = start["key"].removeprefix(f"{study}/{kind}/")
        yield Ended(folder, start["key"], which, end["time"], end["metrics"], end["tags"], images)


def is_another(root: Path, study: str) -> bool:
    """Return True if the folder `root` holds runs of trials, and none of them of the study with this identity."""
    found = False
    for folder, events in read_all_events(root, lambda _: None):
        if folder.name.isdigit() and events:
            found = True
            if events[0]["key"].partition("/")[0] == study:
                return False
    return found


def run_folders(root: Path, warn: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Return the folder of every run below `root`, in the order of names. Warn of links, and of folders too deep."""
    found: list[Path] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:  # no run was recorded yet
            continue
        except OSError as error:
            warn(f"{folder} cannot be read ({error.strerror}). {WAY_OUT}")
            continue
        if any(entry.name == EVENTS for entry in entries):
            found.append(folder)
            continue
        if len(folder.parts) - len(root.parts) > MOST_DEPTH:
            top = root.joinpath(*folder.relative_to(root).parts[:3])
            warn(f"{top} has more than {MOST_DEPTH} nested folders. {WAY_OUT}")
            continue
        for entry in entries:
            if entry.is_symlink():
                warn(f"{entry.path} is a link, which is not followed. {WAY_OUT}")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
    return sorted(found)
