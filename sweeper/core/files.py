"""Write files that others read: first under a temporary name, then renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that no reader sees a part of it."""
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


def is_part(name: str) -> bool:
    """Return True for the name of a file that is being written aside."""
    return name.startswith(".") and name.endswith(".part")


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files of other processes, which were killed."""
    for part in folder.glob("**/.*.part"):
        if not part.name.endswith(f".{os.getpid()}.part"):
            part.unlink(missing_ok=True)
