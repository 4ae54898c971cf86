"""The tar of a backup: written with a manifest, and unpacked only if it is what `sweeper backup` writes.

A tar is untrusted. It is read without decompression. Its members are checked before anything is written:
regular files, with the names of a backup, no duplicates, no larger than the file, and matching the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Annotated, Any, Final, NotRequired, cast

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from sweeper.core.errors import SweeperError, one_line
from sweeper.core.inside import open_inside
from sweeper.server.postgres import MLFLOW, OPTUNA
from sweeper.server.serve import ARTIFACTS, SECRETS

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
KEPT_SECRETS: Final = ("admin-password", "flask-secret-key")
DUMPS: Final = tuple(f"{name}.dump" for name in (MLFLOW, OPTUNA))
FIXED: Final = {MANIFEST, *DUMPS, *(f"{SECRETS}/{name}" for name in KEPT_SECRETS)}
MOST_MEMBERS: Final = 1_000_000
MOST_ENTRY: Final = 2_000  # bytes of the manifest for each
BLOCK: Final = 16_384  # bytes that are read at a time
NOT_A_PLACE: Final = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)  # a member has such a name
SPARE: Final = 100_000_000  # bytes of the disk that stay free


@with_config(ConfigDict(strict=True, extra="ignore"))
class Manifest(TypedDict):
    """The last member: the format, and the SHA-256 and the size of every other member."""

    format: int
    sha256: dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]]
    bytes: NotRequired[dict[str, Annotated[int, Field(ge=0)]]]  # since 0.2.0


MANIFESTS: Final[TypeAdapter[Manifest]] = TypeAdapter(Manifest)


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        block = self._stream.read(size)
        self.sha256.update(block)
        return block


class _Bounded:
    """A file that is read in blocks at most: tarfile trusts the size in a header."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or raise a ValueError if they are too many or negative."""
        if not 0 <= size <= BLOCK:
            raise ValueError("a header is too large")
        return self._stream.read(size)


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
                    reader = _Hashing(content)  # or deleted meanwhile
                    member = tar.gettarinfo(arcname=name, fileobj=content)
                    tar.addfile(member, reader)
                    digests[name], sizes[name] = reader.sha256.hexdigest(), member.size
            text = json.dumps({"format": FORMAT, "sha256": digests, "bytes": sizes}).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(text)
            tar.addfile(info, BytesIO(text))
        stream.flush()
        os.fsync(stream.fileno())
    return digests


def unpack(file: Path, folder: Path) -> dict[str, str]:
    """Unpack a backup into a new folder and check each file; return the SHA-256 of its members.

    Raises:
        SweeperError: it is not a complete backup, has another format, or does not fit on the disk.
    """
    try:
        with file.open("rb") as stream, tarfile.open(fileobj=cast("Any", _Bounded(stream)), mode="r:") as tar:
            members = _members(tar, file.stat().st_size)
            manifest = _manifest(file, tar, members)
            _check(members, manifest, folder)
            for name in (ARTIFACTS, SECRETS):
                (folder / name).mkdir(mode=0o700)
            for name, digest in manifest["sha256"].items():
                _extract(tar, members[name], folder, digest)
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_A_PLACE:
            raise SweeperError(
                f"{file} could not be unpacked ({error.strerror}). Check the disk of {folder.parent}."
            ) from None
        reason = _reason(error) if isinstance(error, ValidationError) else one_line(error, 120)
        raise SweeperError(f"{file} is not a complete sweeper backup ({reason}). Use another one.") from None
    return manifest["sha256"]


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return one_line(ValueError(f"{MANIFEST}: {first['msg']}"), 120)


def _members(tar: tarfile.TarFile, size: int) -> dict[str, tarfile.TarInfo]:
    """Return the members by name, all of them regular files that are whole and that a backup may hold."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        name = member.name
        parts = name.split("/")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ValueError(f"{name} is not a regular file")
        if name not in FIXED and not (parts[0] == ARTIFACTS and len(parts) > 1):
            raise ValueError(f"{name} does not belong to a backup")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name or name in members:
            raise ValueError(f"{name} appears twice, or is not a path inside the home")
        if member.size < 0 or member.offset_data + member.size > size:
            raise ValueError(f"{name} is incomplete")
        members[name] = member
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS:,} members")
    return members


def _manifest(file: Path, tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> Manifest:
    if MANIFEST not in members:
        raise ValueError(f"it has no {MANIFEST}")
    if members[MANIFEST].size > MOST_ENTRY * (len(members) + 1):
        raise ValueError(f"{MANIFEST} is too large")
    stream = tar.extractfile(members[MANIFEST])
    content = b"" if stream is None else b"".join(iter(lambda: stream.read(BLOCK), b""))
    found = json.loads(content)
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise SweeperError(
            f"{file} is a backup of format {str(found['format'])[:20]}, but this release reads format {FORMAT}. "
            "Restore it with the release that created it."
        )
    return MANIFESTS.validate_json(content)


def _check(members: Mapping[str, tarfile.TarInfo], manifest: Manifest, folder: Path) -> None:
    """Compare the members with the manifest, and their sizes with it and with the free disk."""
    if unknown := members.keys() - {MANIFEST, *manifest["sha256"]}:
        raise ValueError(f"{min(unknown)} is not in its manifest")
    if missing := {*manifest["sha256"], *DUMPS} - members.keys():
        raise ValueError(f"{min(missing)} is missing")
    sizes = {name: members[name].size for name in manifest["sha256"]}
    if sizes != manifest.get("bytes", sizes):
        raise ValueError("its sizes differ from its manifest")
    needed, free = sum(sizes.values()) + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise SweeperError(
            f"{folder.parent} has {free:,} bytes free, but the backup needs {needed:,}. Free some space."
        )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, digest: str) -> None:
    """Write a member to its place below a folder."""
    place = folder / member.name
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o600 if place.parent == folder / SECRETS else 0o600 | member.mode & 0o644
    stream, found = tar.extractfile(member), hashlib.sha256()
    opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(opened, "wb") as written:
        while stream and (block := stream.read(BLOCK)):
            found.update(block)
            written.write(block)
    if found.hexdigest() != digest:
        raise ValueError(f"{member.name} is damaged")
