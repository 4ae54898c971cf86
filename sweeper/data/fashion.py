"""FashionMNIST as files: which they are, where they may lie, and what is in them, verified.

The values are arrays: nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from sweeper.core.errors import DataError, one_line
from sweeper.core.images import SIDE, Array

DatasetName = Literal["fashion-mnist", "sample"]
SYSTEM_DIR: Final = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_DIR: Final = Path(__file__).parent / "sample"
GZIP_OVERHEAD: Final = 65_536  # bytes more than its content that a gzipped file may have


@dataclass(frozen=True)
class IdxFile:
    """One file of the data set, as it must be once decompressed."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the decompressed file: magic, one 32-bit integer a dimension, one byte a value."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The four files of a data set and the number of training images to hold out for validation."""

    name: DatasetName
    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile]
    holdout: int

    @property
    def digest(self) -> str:
        """One SHA-256 that stands for the whole data set."""
        return hashlib.sha256("".join(f.sha256 for f in self.train + self.test).encode()).hexdigest()


FULL: Final = Manifest(
    name="fashion-mnist",
    train=(
        IdxFile("train-images-idx3-ubyte", (60_000, SIDE, SIDE),
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        IdxFile("train-labels-idx1-ubyte", (60_000,),
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (10_000, SIDE, SIDE),
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        IdxFile("t10k-labels-idx1-ubyte", (10_000,),
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
    holdout=5_000,
)  # fmt: skip

SAMPLE: Final = Manifest(
    name="sample",
    train=(
        IdxFile("train-images-idx3-ubyte", (7_000, SIDE, SIDE),
                "cc4decef22bed64cf26dff259171f16f3810bc2190b7d7eafa3ec70df1bfed0f"),
        IdxFile("train-labels-idx1-ubyte", (7_000,),
                "6c8409ecd248109b53c1a56731857caea94082c7b11d37a5ccdb0e0987fafde8"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (1_000, SIDE, SIDE),
                "3364bf90388c50cdb6d8754288c094773163c153a35a7e5f0daca87bb02fa082"),
        IdxFile("t10k-labels-idx1-ubyte", (1_000,),
                "4514269c7768576d4f47f7a5c75e27eba60c29159194dc18ab52d04104432692"),
    ),
    holdout=1_000,
)  # fmt: skip

MANIFESTS: Final[dict[DatasetName, Manifest]] = {"fashion-mnist": FULL, "sample": SAMPLE}


def locate(data_dir: Path | None = None) -> Path | None:
    """The first folder that holds the four files of FashionMNIST, raw or gzipped, or None.

    Searched in order: `data_dir` or SWEEPER_DATA_DIR (which must then hold them), the cache
    folder, Debian's package dataset-fashion-mnist.

    Raises:
        DataError: the folder that was asked for does not hold the files.
    """
    asked = data_dir or (Path(os.environ["SWEEPER_DATA_DIR"]) if os.environ.get("SWEEPER_DATA_DIR") else None)
    if asked is not None:
        return _require(asked)
    return next((folder for folder in (cache_dir(), SYSTEM_DIR) if _is_complete(folder)), None)


def cache_dir() -> Path:
    """Where a downloaded data set is kept."""
    from platformdirs import user_cache_path

    return user_cache_path("sweeper") / "fashion-mnist"


def resolve(name: str, data_dir: Path | None = None) -> tuple[Manifest, Path]:
    """The data set to use and its folder; `auto` takes FashionMNIST where it can be had, else the sample.

    Raises:
        DataError: FashionMNIST was asked for and can be neither found nor downloaded.
    """
    if name == "sample":
        return SAMPLE, SAMPLE_DIR
    folder = locate(data_dir)
    if folder is not None:
        return FULL, folder
    try:
        return FULL, download(cache_dir())
    except DataError:
        if name == "auto":
            return SAMPLE, SAMPLE_DIR
        raise


def download(folder: Path) -> Path:
    """Download FashionMNIST through torchvision into `folder`, verify it, and return the folder.

    Raises:
        DataError: no mirror answered within 5 seconds, or what came is not FashionMNIST.
    """
    import socket
    import tempfile
    from http.client import HTTPException

    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    _check_reachable(FashionMNIST.mirrors[0])
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            for file in FULL.train + FULL.test:
                download_url(FashionMNIST.mirrors[0] + file.name + ".gz", part)
                read_idx(Path(part), file)
            folder.mkdir(exist_ok=True)
            for file in FULL.train + FULL.test:
                (Path(part) / f"{file.name}.gz").replace(folder / f"{file.name}.gz")
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"FashionMNIST was not found, and could not be downloaded ({one_line(error, 200)}); name its folder with "
            "--data-dir, install Debian's package dataset-fashion-mnist, or use --dataset sample"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return folder


def _check_reachable(url: str) -> None:
    """Open a connection to the host of `url`; looking up a name has no timeout of its own, so a thread waits for it.

    Raises:
        DataError: nobody answered within 4 seconds.
    """
    import socket
    import threading
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, 80), timeout=3):
            connected.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(4)
    if not connected.is_set():
        raise DataError(
            f"FashionMNIST was not found, and {host} cannot be reached to download it; name its folder with "
            "--data-dir, install Debian's package dataset-fashion-mnist, or use --dataset sample"
        )


def read_idx(folder: Path, file: IdxFile) -> Array:
    """Read one idx file, raw or gzipped, once its length, header and SHA-256 have been checked.

    Returns:
        uint8, of `file.shape`, read-only.

    Raises:
        DataError: the file is missing, unreadable, truncated, too long, or not the expected one.
    """
    path = next((p for p in (folder / file.name, folder / f"{file.name}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / file.name}: no such file, raw or .gz")
    try:
        content = _content(path, file.size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error, 200)}") from None
    header = struct.pack(f">HBB{len(file.shape)}I", 0, 8, len(file.shape), *file.shape)
    if content[: len(header)] != header:
        raise DataError(f"{path}: the header is not that of {'x'.join(map(str, file.shape))} bytes in idx format")
    if len(content) != file.size:
        found = "more" if len(content) > file.size else len(content)
        raise DataError(f"{path}: {found} bytes once decompressed; {file.name} has {file.size}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{path}: the SHA-256 is not that of {file.name}; get the file again")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)


def _content(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file, decompressed if it is gzipped: never more, whatever it claims.

    Raises:
        EOFError, zlib.error: it is not one whole gzip stream, or one that no `most` bytes are compressed to.
    """
    packed = path.suffix == ".gz"
    with path.open("rb") as stream:
        read = stream.read(most + GZIP_OVERHEAD if packed else most)
    if not packed:
        return read
    # Not the module gzip: it reads names, comments and empty streams a byte or a stream at a time.
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    content = gzip.decompress(read, most)
    if len(content) < most and not gzip.eof:
        raise EOFError("the gzip stream has no end")
    if gzip.unused_data:
        raise EOFError("something follows the gzip stream")
    return content


def _missing(folder: Path) -> list[str]:
    files = FULL.train + FULL.test
    return [f.name for f in files if not ((folder / f.name).is_file() or (folder / f"{f.name}.gz").is_file())]


def _is_complete(folder: Path) -> bool:
    try:
        return not _missing(folder)
    except OSError:  # not ours to read
        return False


def _require(folder: Path) -> Path:
    try:
        is_folder, missing = folder.is_dir(), _missing(folder)
    except OSError as error:
        raise DataError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    if not is_folder:
        raise DataError(f"{folder}: not a folder; --data-dir names the folder of the four FashionMNIST files")
    if missing:
        raise DataError(f"{folder}: holds no {' and no '.join(missing)}, raw or .gz")
    return folder
