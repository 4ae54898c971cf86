"""Files of `benchmarks.fair_accuracy`: results, none of them lost or written twice, and recipes that stay frozen."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.core.config import RunConfig
from sweeper.core.errors import UsageError
from sweeper.core.files import write_whole


class Record:
    """A file of results: a line that names their recipe, then a line a result, each of which is there once.

    Raises:
        UsageError: the file is of something else.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, json.loads(json.dumps(header))
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        found, *self.entries = [json.loads(line) for line in lines] or [self.header]
        if found != self.header:
            changed = sorted(name for name in {*found, *self.header} if found.get(name) != self.header.get(name))
            raise UsageError(f"{path}: results of another {', '.join(changed)}. Move it away, or use another --recipe.")

    def of(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return the result of a seed of a candidate, if there is one."""
        return next((entry for entry in self.entries if (entry["name"], entry["seed"]) == (name, seed)), None)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write a result to disk, all of it or nothing."""
        assert self.of(entry["name"], entry["seed"]) is None, f"{entry['name']}, seed {entry['seed']} is there already"
        self.entries.append(json.loads(json.dumps(entry)))
        lines = map(json.dumps, [self.header, *self.entries])
        write_whole(self.path, "".join(f"{line}\n" for line in lines).encode())


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything but the digest itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def freeze(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a recipe with its digest.

    Raises:
        UsageError: `path` exists.
    """
    frozen = {**content, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    frozen["sha256"] = digest(frozen)
    try:
        with path.open("x") as stream:
            stream.write(f"{json.dumps(frozen, indent=1)}\n")
    except FileExistsError:
        raise UsageError(f"--recipe {path} exists, and a frozen recipe stays as it is. Name another file.") from None
    return frozen


def thaw(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Read a frozen recipe, and all that its file says.

    Raises:
        UsageError: the file cannot be read, or was changed.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error}). --tune writes one.") from None
    if not isinstance(content, dict) or content.get("sha256") != digest(content):
        raise UsageError(f"--recipe {path}: not as it was frozen, by its SHA-256. Tune again, into another file.")
    return RunConfig.create(**content["recipe"]), content
