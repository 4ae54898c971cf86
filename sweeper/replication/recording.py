"""The recorded runs of a protocol in one file: `sweeper reproduce --export` writes it, `--import` takes it up.

The file is a gzipped tar. It holds the `events.jsonl` of each finished run, byte for byte, under its path in the
journal, and at its end `manifest.json` with the SHA-256 and size of each. Weights and pictures are left out. Equal runs
give equal bytes. Anyone may have made such a file: see `core/archive.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from sweeper.core.archive import FORMAT, Manifest, add_bytes, add_manifest, open_archive, reason
from sweeper.core.environment import Environment
from sweeper.core.errors import StudyConflict, SweeperError, UsageError
from sweeper.core.files import write_whole
from sweeper.core.inside import read_inside, write_inside
from sweeper.core.text import counted
from sweeper.replication.article import Article, ProtocolName, Reproduction
from sweeper.replication.articles import ARTICLES, under
from sweeper.replication.plan import check_same, kind_of
from sweeper.replication.runs import ArmRun, no_runs, read_runs, starts
from sweeper.sweep.folder import held
from sweeper.tracking.reading import EVENTS
from sweeper.tracking.schema import MOST_EVENTS

MOST_CONTENT: Final = 256_000_000  # bytes, unpacked: some 10,000 runs
MEMBER: Final = re.compile(
    rf"reproduce-[a-z0-9][a-z0-9-]{{0,99}}/[a-z0-9][\w.-]{{0,99}}/seed-\d{{1,9}}/{EVENTS}", re.ASCII
)
BLOCK: Final = 1 << 20


class RecordingManifest(Manifest):
    """The last member: also the article and the protocol that the runs are of."""

    article: str
    protocol: ProtocolName


MANIFESTS: Final[TypeAdapter[RecordingManifest]] = TypeAdapter(RecordingManifest)


class Unpacked(NamedTuple):
    """A recording, unpacked into a folder that is laid out as a journal."""

    journal: Path
    of: Reproduction
    files: Mapping[str, bytes]  # by their path below the journal


# --- writing ---------------------------------------------------------------------------------------------


def export_runs(env: Environment, of: Reproduction, file: Path) -> dict[str, Any]:
    """Write the finished runs of an article's protocol into `file`, whole or not at all.

    Returns:
        The JSON that `--json` prints.

    Raises:
        SweeperError: there is no finished run, or the file exists or cannot be written.
    """
    runs = read_runs(env.journal, of)
    if not runs:
        raise SweeperError(no_runs(env.journal, of))
    if file.exists():
        raise SweeperError(f"{file} exists. Name another file.")
    content = packed(env.journal, of, runs)
    try:
        write_whole(file, content)
    except OSError as error:
        raise SweeperError(f"could not write {file} ({error.strerror}). Name another file.") from None
    count = sum(map(len, runs.values()))
    env.say(f"exported {counted(count, 'run')} of {of.words} to {file} ({len(content) / 1e6:.1f} MB)")
    sha256 = hashlib.sha256(content).hexdigest()
    about = {"article": of.article.name, "protocol": of.name, "runs": count}
    return about | {"file": str(file.absolute()), "bytes": len(content), "sha256": sha256}


def packed(journal: Path, of: Reproduction, runs: Mapping[str, list[ArmRun]]) -> bytes:
    """Return the content of the file for `runs` of `journal`."""
    files = {name: _lines_of(journal, name) for name in sorted(_names(journal, runs))}
    manifest = {
        "format": FORMAT, "article": of.article.name, "protocol": of.name,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "bytes": {name: len(content) for name, content in files.items()},
    }  # fmt: skip
    stream = BytesIO()
    with gzip.GzipFile("", "wb", 9, stream, mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in files.items():
            add_bytes(tar, name, content)
        add_manifest(tar, manifest)
    return stream.getvalue()


def _lines_of(journal: Path, name: str) -> bytes:
    """The whole lines of a file of the journal, without one that a crash cut off."""
    content = read_inside(journal.resolve(), name, MOST_EVENTS)
    return content[: content.rfind(b"\n") + 1]


# --- reading ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def journal_of(path: Path, of: Reproduction) -> Iterator[Path]:
    """Yield the folder of a journal: `path` itself, or the runs of the recording that it is.

    Raises:
        SweeperError: the file is no whole recording.
        UsageError: it is one of another article or protocol.
    """
    if not path.is_file():
        yield path
        return
    with unpacked(path, of.article) as found:
        if found.of.name != of.name:
            raise UsageError(f"{path} is a recording of {found.of.words}. Add {found.of.options}.")
        _check_runs(path, found)
        yield found.journal


@contextlib.contextmanager
def unpacked(file: Path, article: Article) -> Iterator[Unpacked]:
    """Unpack a recording of an article into a folder that is removed at the end of the block, and check each file.

    Raises:
        SweeperError: it cannot be read, or is no whole recording.
        UsageError: it is of another article.
    """
    try:
        content = _unzipped(file)
        with open_archive(BytesIO(content), len(content), _permitted, "a recording") as archive:
            manifest = archive.manifest(MANIFESTS, f"{file} is a recording")
            archive.compare(manifest)
            files = {name: b"".join(archive.blocks(name)) for name in manifest["sha256"]}
        of = _named(file, manifest, article)
        _check(manifest, files, f"{of.folder}/")
    except (tarfile.TarError, EOFError, ValueError, RecursionError, gzip.BadGzipFile, zlib.error) as error:
        raise SweeperError(f"{file}: not a whole recording of sweeper ({reason(error)}). Export it again.") from None
    except OSError as error:
        raise SweeperError(f"{file} cannot be read ({error.strerror}). Name a file of reproduce --export.") from None
    with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
        for name, lines in files.items():
            write_inside(Path(folder), name, lines)
        yield Unpacked(Path(folder), of, files)


def _unzipped(file: Path) -> bytes:
    """Return the content of a gzip file, of at most `MOST_CONTENT` bytes."""
    content = bytearray()
    with gzip.open(file) as stream:
        while block := stream.read(BLOCK):
            content += block
            if len(content) > MOST_CONTENT:
                raise ValueError(f"it has more than {MOST_CONTENT:,} bytes")
    return bytes(content)


def _permitted(name: str) -> bool:
    return MEMBER.fullmatch(name) is not None


def _named(file: Path, manifest: RecordingManifest, article: Article) -> Reproduction:
    """Return the article and the protocol that a manifest names."""
    if manifest["article"] == article.name:
        return under(article, manifest["protocol"])
    ours = manifest["article"] in ARTICLES
    add = (
        f"Add --article {manifest['article']}"
        if ours
        else f"Add the --claims FILE that is named {manifest['article'][:60]!r}"
    )
    raise UsageError(f"{file} is a recording of another article than {article.name}. {add}.")


def _check(manifest: RecordingManifest, files: Mapping[str, bytes], below: str) -> None:
    """Compare the files with their hashes, and their folder with the protocol."""
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise ValueError(f"{name} is damaged")
        if not name.startswith(below):
            raise ValueError(f"{name} is not of {below}")


# --- taking it up ----------------------------------------------------------------------------------------


def import_runs(env: Environment, article: Article, file: Path) -> dict[str, Any]:
    """Take the runs in `file` up into the journal, all or none. A run that is there already stays as it is.

    An unfinished run in the place of another, or one of a former configuration, is set aside as `reproduce` does.

    Returns:
        The JSON that `--json` prints.

    Raises:
        SweeperError: the file is no whole recording, or cannot be written to the journal.
        StudyConflict: the journal holds another run of the same arm and seed, or runs of another kind.
    """
    with unpacked(file, article) as found:
        _check_runs(file, found)
        of = found.of
        with held(env.journal / of.folder):
            here = read_runs(env.journal, of)
            new = _new(env.journal, file, found, here)
            try:
                for name, content in new.items():
                    _take_up(env.journal.resolve(), name, content)
            except OSError as error:
                raise SweeperError(
                    f"could not write to {env.journal} ({error.strerror}). Set SWEEPER_HOME to a writable folder."
                ) from None
    known = len(found.files) - len(new)
    env.say(f"imported {counted(len(new), 'run')} of {of.words}" + (f"; {known} were there" if known else ""))
    env.say(f"to judge the claims: sweeper verify {of.options}")
    about = {"article": of.article.name, "protocol": of.name, "runs": len(found.files)}
    return about | {"added": len(new), "journal": str(env.journal)}


def _check_runs(file: Path, found: Unpacked) -> None:
    """Refuse runs that this release would not read, or that cannot be compared with each other."""
    runs = read_runs(found.journal, found.of)
    if unread := sorted(found.files.keys() - set(_names(found.journal, runs))):
        raise StudyConflict(
            f"{file}: {unread[0].rpartition('/')[0]} is no finished run of an arm as this release trains it "
            f"({len(unread)} of {len(found.files)} runs). Use the release that made the file."
        )
    if len({kind_of(start["params"]) for start in starts(runs)}) > 1:
        raise StudyConflict(f"{file} holds runs of several kinds of data set, precision or device. Export one kind.")


def _names(journal: Path, runs: Mapping[str, list[ArmRun]]) -> Iterator[str]:
    """The files of runs, by their path below the journal."""
    return (f"{run.folder.relative_to(journal)}/{EVENTS}" for of_arm in runs.values() for run in of_arm)


def _new(journal: Path, file: Path, found: Unpacked, here: Mapping[str, list[ArmRun]]) -> dict[str, bytes]:
    """Return the files that the journal lacks.

    Raises:
        StudyConflict: it holds others in their place, or runs of another kind.
    """
    for wanted in {kind_of(start["params"]) for start in starts(read_runs(found.journal, found.of))}:
        check_same(journal, found.of, wanted)
    finished = {name: _lines_of(journal, name) for name in _names(journal, here)}
    if others := [name for name in found.files if finished.get(name, found.files[name]) != found.files[name]]:
        more = f", and so for {len(others) - 1} more" if len(others) > 1 else ""
        raise StudyConflict(
            f"{journal / others[0]} is another run than that in {file}{more}. Import into another SWEEPER_HOME."
        )
    return {name: content for name, content in found.files.items() if name not in finished}


def _take_up(journal: Path, name: str, content: bytes) -> None:
    """Write the file of a run to its place in the journal, and set aside what is there."""
    folder = journal / name.rpartition("/")[0]
    if (folder / EVENTS).exists():
        folder.rename(folder.with_name(f"{folder.name}.{time.time_ns()}"))
    write_inside(journal, name, content)
