"""Files of `benchmarks.fair_accuracy`: results of which none is lost or written twice, and recipes that stay frozen."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweeper.core.config import RunConfig
from sweeper.core.errors import UsageError
from sweeper.core.files import write_whole


class Record:
    """A file of results: a line of what they are of, then a line a result, each of which is there once.

    Raises:
        UsageError: the file is of something else, or another process writes it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, json.loads(json.dumps(header))
        lines = path.read_text().splitlines() if path.exists() else []
        found, *self.entries = [json.loads(line) for line in lines] or [self.header]
        if found != self.header:
            changed = sorted(name for name in {*found, *self.header} if found.get(name) != self.header.get(name))
            raise UsageError(f"{path}: results of another {', '.join(changed)}; move it away, or use another --recipe")

    @classmethod
    @contextmanager
    def opened(cls, path: Path, header: Mapping[str, Any]) -> Iterator[Record]:
        """The record at `path`, which no other process writes meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
                yield cls(path, header)
        except Timeout:
            raise UsageError(f"{path}: another process is writing it; wait for its end") from None

    def of(self, name: str, seed: int) -> dict[str, Any] | None:
        """The result of a seed of a candidate, if there is one."""
        return next((entry for entry in self.entries if (entry["name"], entry["seed"]) == (name, seed)), None)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write a result: all of it or nothing, and onto the disk."""
        assert self.of(entry["name"], entry["seed"]) is None, f"{entry['name']}, seed {entry['seed']} is there already"
        self.entries.append(json.loads(json.dumps(entry)))
        lines = map(json.dumps, [self.header, *self.entries])
        write_whole(self.path, "".join(f"{line}\n" for line in lines).encode())


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the digest itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def freeze(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a recipe with its digest, whole, where there is none.

    Raises:
        UsageError: `path` exists by now.
    """
    frozen = {**content, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    frozen["sha256"] = digest(frozen)
    aside = path.with_name(f".{path.name}.{os.getpid()}.whole")
    try:
        write_whole(aside, f"{json.dumps(frozen, indent=1)}\n".encode())
        os.link(aside, path)  # which, other than a renaming, replaces nothing
    except FileExistsError:
        raise UsageError(f"--recipe {path}: exists, and a frozen recipe stays as it is; name another file") from None
    finally:
        aside.unlink(missing_ok=True)
    return frozen


def thaw(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """A frozen recipe, and all that its file says.

    Raises:
        UsageError: there is none, or it is not as it was frozen.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error}); --tune writes one") from None
    if not isinstance(content, dict) or content.get("sha256") != digest(content):
        raise UsageError(f"--recipe {path}: not as it was frozen, by its SHA-256; tune again, into another file")
    return RunConfig.create(**content["recipe"]), content
