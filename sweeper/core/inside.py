"""Access files inside a folder with untrusted content: only regular files, and no link below the folder is followed.

A path is opened component by component, each within the folder opened before, so that nothing outside is reached.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import filelock

from sweeper.core.errors import RecordError
from sweeper.core.files import is_part

MOST_DEPTH: Final = 16  # nested folders
MOST_FILES: Final = 10_000  # in a folder and those below it
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # never wait for the other end of a pipe
NO_FILE: Final = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR)  # a link, not a folder, a pipe or a folder
WAY_OUT: Final = "Restore the file from a copy, or move its folder away."


def open_inside(folder: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file by its path below `folder`, and return its descriptor.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is not a regular file, or a component of its path is a link.
    """
    with _parent(folder, name) as (parent, last), _refusing(folder / name):
        opened = os.open(last, flags | FILE, 0o666, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise RecordError(f"{folder / name} is not a regular file. {WAY_OUT}")
        return opened


def read_inside(folder: Path, name: str, most: int) -> bytes:
    """Read a regular file of at most `most` bytes by its path below `folder`.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is not a regular file, is larger, cannot be read, or a component of its path is a link.
    """
    try:
        with os.fdopen(open_inside(folder, name), "rb") as stream:
            content = stream.read(most + 1) if os.fstat(stream.fileno()).st_size <= most else None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(f"{folder / name} cannot be read ({error.strerror}). {WAY_OUT}") from None
    if content is None or len(content) > most:
        raise RecordError(f"{folder / name} has more than {most:,} bytes. {WAY_OUT}")
    return content


def write_inside(folder: Path, name: str, content: bytes) -> None:
    """Write a file by its path below `folder`, so that no reader sees a part of it; create missing folders.

    A link in its place is replaced, and what it points to stays as it is.

    Raises:
        RecordError: a folder on its path is a link, or not a folder.
        OSError: it cannot be written.
    """
    with _parent(folder, name, make=True) as (parent, last):
        part = f".{last}.{os.getpid()}.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=parent)
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, 0o666, dir_fd=parent)
        try:
            with os.fdopen(opened, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, last, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=parent)
            raise


def make_inside(folder: Path, name: str) -> None:
    """Create a folder by its path below `folder`, with any missing parent folders.

    Raises:
        RecordError: one of them is a link, or not a folder.
    """
    with _parent(folder, f"{name}/.", make=True):
        pass


def lock_inside(folder: Path, name: str, **options: Any) -> filelock.FileLock:
    """Return the lock whose file has this path below `folder`.

    Raises:
        RecordError: the file exists but is not a regular file, or a component of its path is a link.
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(open_inside(folder, name))
    return filelock.FileLock(folder / name, **options)


def files_inside(folder: Path, name: str, most: int) -> list[str]:
    """Return the paths below `folder` of all files in its folder `name`, sorted; none where there is no such folder.

    Files that are being written aside are left out.

    Raises:
        RecordError: one is not a regular file, has more than `most` bytes, or is a link; or there are too many.
    """
    found: list[str] = []
    waiting = [name]
    while waiting:
        at = waiting.pop()
        if at.count("/") > MOST_DEPTH or len(found) + len(waiting) > MOST_FILES:
            raise RecordError(f"{folder / name} holds too many files, or is nested too deep. {WAY_OUT}")
        for entry, status in _entries(folder, at):
            path = f"{at}/{entry}"
            if is_part(entry):
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
            elif not stat.S_ISREG(status.st_mode):
                kind = "is a link" if stat.S_ISLNK(status.st_mode) else "is not a regular file"
                raise RecordError(f"{folder / path} {kind}. {WAY_OUT}")
            elif status.st_size > most:
                raise RecordError(f"{folder / path} has more than {most:,} bytes. {WAY_OUT}")
            else:
                found.append(path)
    return sorted(found)


def _entries(folder: Path, name: str) -> list[tuple[str, os.stat_result]]:
    """Return the names in a folder and their types, without following links."""
    try:
        with _parent(folder, f"{name}/.") as (opened, _), os.scandir(opened) as entries:
            found = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it was written aside, and renamed since
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
            return found
    except FileNotFoundError:
        return []


def remove_inside(folder: Path, name: str) -> None:
    """Delete a file by its path below `folder`, and the folders that this leaves empty.

    Raises:
        RecordError: a component of the path is a link.
    """
    with _parent(folder, name) as (opened, last):
        os.unlink(last, dir_fd=opened)
    while "/" in name:
        name = name.rpartition("/")[0]
        with _parent(folder, name) as (opened, last):
            try:
                os.rmdir(last, dir_fd=opened)
            except OSError:  # it holds more
                return


@contextlib.contextmanager
def _parent(folder: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the open folder that holds a file, and the file's name in it."""
    *folders, last = name.split("/")
    if any(part in ("", ".", "..") for part in folders) or last in ("", ".."):
        raise RecordError(f"{folder / name} is not a path inside {folder}. {WAY_OUT}")
    at = folder
    with contextlib.ExitStack() as stack:
        opened = -1
        for part in (os.fspath(folder), *folders):
            at = at if opened < 0 else at / part
            with _refusing(at):
                opened = _open_folder(part, None if opened < 0 else opened, make=make)
            stack.callback(os.close, opened)
        yield opened, last


def _open_folder(name: str, parent: int | None, *, make: bool) -> int:
    """Open a folder, by its name in an open one; create it there if it is missing."""
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except FileNotFoundError:
        if parent is None or not make:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        return os.open(name, FOLDER, dir_fd=parent)


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Refuse a path of the wrong type."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        kind = "is a link" if path.is_symlink() else "is not a regular file or folder"
        raise RecordError(f"{path} {kind}. {WAY_OUT}") from None
