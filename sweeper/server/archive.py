"""The tar of a backup: written with a manifest, and unpacked only if it is what `sweeper backup` writes.

Anyone may have made a tar: `core/archive.py` reads it without trust.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from sweeper.core.archive import FORMAT, MANIFEST, Archive, Hashing, Manifest, add_manifest, open_archive, reason
from sweeper.core.errors import SweeperError
from sweeper.core.inside import open_inside
from sweeper.server.postgres import MLFLOW, OPTUNA
from sweeper.server.serve import ARTIFACTS, SECRETS

KEPT_SECRETS: Final = ("admin-password", "flask-secret-key")
DUMPS: Final = tuple(f"{name}.dump" for name in (MLFLOW, OPTUNA))
FIXED: Final = {MANIFEST, *DUMPS, *(f"{SECRETS}/{name}" for name in KEPT_SECRETS)}
NOT_A_PLACE: Final = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)  # a member has such a name
SPARE: Final = 100_000_000  # bytes of the disk that stay free
MANIFESTS: Final[TypeAdapter[Manifest]] = TypeAdapter(Manifest)


def write_archive(partial: Path, dumps: Path, home: Path) -> dict[str, str]:
    """Write the tar through to the disk; return the SHA-256 of its members."""
    files = [(dumps, name, name) for name in DUMPS]
    files += [(home / SECRETS, name, f"{SECRETS}/{name}") for name in KEPT_SECRETS if (home / SECRETS / name).exists()]
    root = (home / ARTIFACTS).resolve()
    artifacts = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(root).as_posix() for path in artifacts]
    files += [(root, name, f"{ARTIFACTS}/{name}") for name in names]
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    opened = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds secrets
    with os.fdopen(opened, "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w", dereference=True) as tar:
            for folder, path, name in files:
                with contextlib.suppress(FileNotFoundError), os.fdopen(open_inside(folder, path), "rb") as content:
                    reader = Hashing(content)  # or deleted meanwhile
                    member = tar.gettarinfo(arcname=name, fileobj=content)
                    tar.addfile(member, reader)
                    digests[name], sizes[name] = reader.sha256.hexdigest(), member.size
            add_manifest(tar, {"format": FORMAT, "sha256": digests, "bytes": sizes})
        stream.flush()
        os.fsync(stream.fileno())
    return digests


def unpack(file: Path, folder: Path) -> dict[str, str]:
    """Unpack a backup into a new folder and check each file; return the SHA-256 of its members.

    Raises:
        SweeperError: it is not a complete backup, has another format, or does not fit on the disk.
    """
    try:
        with file.open("rb") as stream, open_archive(stream, file.stat().st_size, _permitted, "a backup") as archive:
            manifest = archive.manifest(MANIFESTS, f"{file} is a backup")
            _check_room(archive.compare(manifest, needed=DUMPS), folder)
            for name in (ARTIFACTS, SECRETS):
                (folder / name).mkdir(mode=0o700)
            for name, digest in manifest["sha256"].items():
                _extract(archive, name, folder, digest)
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_A_PLACE:
            raise SweeperError(
                f"{file} could not be unpacked ({error.strerror}). Check the disk of {folder.parent}."
            ) from None
        raise SweeperError(f"{file} is not a complete sweeper backup ({reason(error)}). Use another one.") from None
    return manifest["sha256"]


def _permitted(name: str) -> bool:
    """Return True for the names that a backup may hold."""
    return name in FIXED or name.startswith(f"{ARTIFACTS}/")


def _check_room(size: int, folder: Path) -> None:
    """Compare the size of all files with the free disk."""
    needed, free = size + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise SweeperError(
            f"{folder.parent} has {free:,} bytes free, but the backup needs {needed:,}. Free some space."
        )


def _extract(archive: Archive, name: str, folder: Path, digest: str) -> None:
    """Write a member to its place below a folder."""
    place, found = folder / name, hashlib.sha256()
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o600 if place.parent == folder / SECRETS else 0o600 | archive.members[name].mode & 0o644
    opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(opened, "wb") as written:
        for block in archive.blocks(name):
            found.update(block)
            written.write(block)
    if found.hexdigest() != digest:
        raise ValueError(f"{name} is damaged")
