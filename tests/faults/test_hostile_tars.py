"""Backups that somebody else made: a refused one leaves nothing, inside the home and outside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import pytest

from sweeper.core.errors import SweeperError
from sweeper.server.backup import restore

CANARY = b"canary-5d1c"


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> tuple[TarInfo, bytes]:
    info = TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_of(*members: tuple[TarInfo, bytes], mode: str = "w", **manifest: Any) -> bytes:
    """A backup with two dumps, an artifact and these members, and a manifest that is right but for these fields."""
    files = [member(name, CANARY) for name in ("mlflow.dump", "optuna.dump", "artifacts/a")]
    wanted = {info.name: hashlib.sha256(content).hexdigest() for info, content in [*files, *members]}
    last = member("manifest.json", json.dumps({"format": 1, "sha256": wanted} | manifest).encode())
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as tar:  # type: ignore[call-overload]
        for info, content in [*files, *members, last]:
            tar.addfile(info, io.BytesIO(content))
    return written.getvalue()


def tar_with_manifest(content: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for info, inside in [member("mlflow.dump", CANARY), member("manifest.json", content)]:
            tar.addfile(info, io.BytesIO(inside))
    return written.getvalue()


def sparse(size: int, old: bool) -> bytes:
    """A member of a few bytes that is unpacked to `size`, in GNU's old form, or in pax headers."""
    if not old:
        pax = {"GNU.sparse.map": f"{size - 1},1", "GNU.sparse.size": str(size)}
        return tar_of(member("artifacts/sparse", b"x", pax_headers=pax))
    content = bytearray(tar_of(member("artifacts/sparse", b"x")))
    at = content.index(b"artifacts/sparse")
    content[at + 156 : at + 157] = tarfile.GNUTYPE_SPARSE
    content[at + 257 : at + 265] = b"ustar  \0"
    content[at + 345 : at + 512] = bytes(167)
    content[at + 386 : at + 410] = b"%011o\0%011o\0" % (size - 1, 1)
    content[at + 483 : at + 495] = b"%011o\0" % size
    return bytes(summed(content, at))


def summed(content: bytearray, at: int) -> bytearray:
    """Write the checksum of the header at a position."""
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return content


def sized(size: int, name: bytes = b"artifacts/more", kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member whose header names another size than it has."""
    content = bytearray(tar_of(member(name.decode(), b"x")))
    at = content.index(name)
    content[at + 124 : at + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    content[at + 156 : at + 157] = kind
    return bytes(summed(content, at))


TARS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: tar_of(mode="w:gz"),
    "bzip2": lambda: tar_of(mode="w:bz2"),
    "xz": lambda: tar_of(mode="w:xz"),
    "a link": lambda: tar_of(member("artifacts/l", kind=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": lambda: tar_of(member("artifacts/l", kind=tarfile.LNKTYPE, linkname="artifacts/a")),
    "a pipe": lambda: tar_of(member("artifacts/p", kind=tarfile.FIFOTYPE)),
    "a device": lambda: tar_of(member("artifacts/d", kind=tarfile.CHRTYPE)),
    "a folder": lambda: tar_of(member("artifacts/d", kind=tarfile.DIRTYPE)),
    "an absolute name": lambda: tar_of(member("/tmp/evil", CANARY)),
    "a name that leads out": lambda: tar_of(member("artifacts/../../../evil", CANARY)),
    "a name of the databases": lambda: tar_of(member("postgres/postgresql.conf", CANARY)),
    "another secret": lambda: tar_of(member("secrets/more", CANARY)),
    "a name twice": lambda: tar_of(member("artifacts/a", CANARY)),
    "a file and a folder of one name": lambda: tar_of(member("artifacts/a/b", CANARY)),
    "a name of 300 letters": lambda: tar_of(member(f"artifacts/{'x' * 300}", CANARY)),
    "a sparse file": lambda: sparse(2**33, old=True),
    "a sparse file by pax": lambda: sparse(2**50, old=False),
    "a file larger than the tar": lambda: sized(2**40),
    "a size below nothing": lambda: sized(-1024),
    "a pax header of 1 TB": lambda: sized(2**40, kind=tarfile.XHDTYPE),
    "a pax header below nothing": lambda: sized(-1024, kind=tarfile.XHDTYPE),
    "a long name of 1 MB": lambda: tar_of(member(f"artifacts/{'x' * 1_000_000}")),
    "no manifest": lambda: tar_with_manifest(b"").replace(b"manifest.json", b"artifacts/m.j"),
    "a manifest that is a list": lambda: tar_with_manifest(b"[]"),
    "a manifest of 2,000 levels": lambda: tar_with_manifest(b'{"format": 1, "sha256": ' + b"[" * 2_000),
    "a manifest of another member": lambda: tar_of(sha256={"mlflow.dump": "0" * 64}),
    "a manifest of other sizes": lambda: tar_of(bytes={"mlflow.dump": 1}),
    "a SHA-256 that is a number": lambda: tar_of(sha256={"mlflow.dump": 1}),
    "a SHA-256 of other bytes": lambda: tar_of().replace(CANARY, CANARY[::-1], 1),
}


@pytest.mark.parametrize("made", TARS.values(), ids=TARS.keys())
def test_a_foreign_tar_leaves_nothing(tmp_path: Path, made: Callable[[], bytes]) -> None:
    home, file = tmp_path / "home", tmp_path / "all.tar"
    home.mkdir()
    file.write_bytes(made())
    with pytest.raises(SweeperError, match="is not a complete sweeper backup") as caught:
        restore(home, file)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in home.iterdir()] == ["serve.lock"]
    assert {path.name for path in tmp_path.iterdir()} == {"home", "all.tar"}
    assert not Path("/tmp/evil").exists()


def test_a_tar_larger_than_the_free_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "all.tar"
    home.mkdir()
    size = shutil.disk_usage(home).free + 10**9
    content = sized(size)
    at = content.index(b"artifacts/more") + 512
    with file.open("wb") as stream:  # most of it is a hole
        stream.write(content[:at])
        stream.seek(-(-size // 512) * 512, os.SEEK_CUR)
        stream.write(content[at + 512 :])
    with pytest.raises(SweeperError, match=r"bytes free, but the backup needs .* Free some space"):
        restore(home, file)
    assert [path.name for path in home.iterdir()] == ["serve.lock"]
