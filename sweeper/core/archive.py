"""Tars that anyone may have made: read without decompression, their members checked before anything is written.

A member is a regular file, under a name that the reader permits, not there twice, and no larger than the tar. The last
one is a manifest with the SHA-256 and the size of every other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from typing import IO, Annotated, Any, Final, NotRequired, TypeVar, cast

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from sweeper.core.errors import SweeperError, one_line

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MOST_MEMBERS: Final = 1_000_000
MOST_ENTRY: Final = 2_000  # bytes of the manifest for each
BLOCK: Final = 16_384  # bytes that are read at a time


@with_config(ConfigDict(strict=True, extra="ignore"))
class Manifest(TypedDict):
    """The last member: the format, and the SHA-256 and the size of every other member."""

    format: int
    sha256: dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]]
    bytes: NotRequired[dict[str, Annotated[int, Field(ge=0)]]]  # since 0.2.0


AnyManifest = TypeVar("AnyManifest", bound=Manifest)


class Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        block = self._stream.read(size)
        self.sha256.update(block)
        return block


class _Bounded:
    """A file of which no more than a block is read at a time: tarfile believes the size that a header names."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or raise a ValueError if they are too many or negative."""
        if not 0 <= size <= BLOCK:
            raise ValueError("a header is too large")
        return self._stream.read(size)


class Archive:
    """A tar that is open for reading, with its members by name."""

    def __init__(self, tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> None:
        self._tar, self.members = tar, members

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a member, a block at a time.

        Raises:
            ValueError: the tar ends before it does.
        """
        stream = self._tar.extractfile(self.members[name])
        while stream and (block := stream.read(BLOCK)):
            yield block

    def manifest(self, kind: TypeAdapter[AnyManifest], what: str) -> AnyManifest:
        """Return the manifest. `what` names the kind of tar, such as "a backup".

        Raises:
            ValueError: there is none, or it is none.
            SweeperError: it is of another format.
        """
        if MANIFEST not in self.members:
            raise ValueError(f"it has no {MANIFEST}")
        if self.members[MANIFEST].size > MOST_ENTRY * (len(self.members) + 1):
            raise ValueError(f"{MANIFEST} is too large")
        content = b"".join(self.blocks(MANIFEST))
        found = json.loads(content)
        if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
            raise SweeperError(
                f"{what} of format {str(found['format'])[:20]}, and this release reads format {FORMAT}. Use the "
                "release that made it."
            )
        return kind.validate_json(content)

    def compare(self, manifest: Manifest, needed: Iterable[str] = ()) -> int:
        """Compare the members with the manifest, and return the sum of their sizes.

        Raises:
            ValueError: a member is missing, not named, or of another size.
        """
        if unknown := self.members.keys() - {MANIFEST, *manifest["sha256"]}:
            raise ValueError(f"{min(unknown)} is not in its manifest")
        if missing := {*manifest["sha256"], *needed} - self.members.keys():
            raise ValueError(f"{min(missing)} is missing")
        sizes = {name: self.members[name].size for name in manifest["sha256"]}
        if sizes != manifest.get("bytes", sizes):
            raise ValueError("its sizes differ from its manifest")
        return sum(sizes.values())


@contextlib.contextmanager
def open_archive(stream: IO[bytes], size: int, permitted: Callable[[str], bool], what: str) -> Iterator[Archive]:
    """Yield the tar in `stream`, of `size` bytes, if all its members may be there. `what` is as in `manifest`.

    Raises:
        ValueError, tarfile.TarError: it is no such tar.
    """
    with tarfile.open(fileobj=cast("Any", _Bounded(stream)), mode="r:") as tar:
        yield Archive(tar, _members(tar, size, permitted, what))


def _members(
    tar: tarfile.TarFile, size: int, permitted: Callable[[str], bool], what: str
) -> dict[str, tarfile.TarInfo]:
    """Return the members by name, all of them regular files that are whole and permitted."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        name = member.name
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ValueError(f"{name} is not a regular file")
        if name != MANIFEST and not permitted(name):
            raise ValueError(f"{name} does not belong to {what}")
        if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name or name in members:
            raise ValueError(f"{name} appears twice, or is not a path inside the home")
        if member.size < 0 or member.offset_data + member.size > size:
            raise ValueError(f"{name} is incomplete")
        members[name] = member
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS:,} members")
    return members


def add_manifest(tar: tarfile.TarFile, content: Mapping[str, Any]) -> None:
    """Append the manifest to a tar that is being written."""
    add_bytes(tar, MANIFEST, json.dumps(content).encode())


def add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar, with no owner and no time, so that equal files give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, BytesIO(content))


def reason(error: BaseException) -> str:
    """Return in one short line why something is no whole archive."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return one_line(f"{MANIFEST}: {first['msg']}", 120)
    return one_line(error, 120)
