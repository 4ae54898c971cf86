"""FashionMNIST as four files: where they are, and the verified arrays in them. Only a download needs torch."""

from __future__ import annotations

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
from sweeper.core.images import Array, ImageSpec
from sweeper.data.download import downloading
from sweeper.data.images import Labelled, Part

DatasetName = Literal["fashion-mnist", "sample"]
SIDE: Final = 28
CLASSES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN: Final = 0.28604  # of the 60,000 training images, pixels in [0, 1]; the sample is standardised by it too
STD: Final = 0.35302
SYSTEM_DIR: Final = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_DIR: Final = Path(__file__).parent / "sample"
TORCHVISION: Final = ("FashionMNIST/raw", "raw")  # below its root, and below the data set's folder
GZIP_OVERHEAD: Final = 65_536  # bytes that a gzipped file may have more than its content


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set, with the SHA-256 of its decompressed content."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        """The magic number, then one 32-bit integer per dimension."""
        return struct.pack(f">HBB{len(self.shape)}I", 0, 8, len(self.shape), *self.shape)

    @property
    def size(self) -> int:
        """Bytes of the decompressed file: the header, then one byte per value."""
        return len(self.header) + math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The four files of a data set, and the number of training images to hold out for validation."""

    name: DatasetName
    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile]
    holdout: int

    @property
    def digest(self) -> str:
        """The SHA-256 of the whole data set."""
        return hashlib.sha256("".join(f.sha256 for f in self.train + self.test).encode()).hexdigest()

    @property
    def spec(self) -> ImageSpec:
        """The description of the images."""
        train, test = (labels.shape[0] for _, labels in (self.train, self.test))
        return ImageSpec(
            self.name, self.digest, CLASSES, (SIDE, SIDE, 1), (MEAN,), (STD,), train_images=train, test_images=test,
            holdout=self.holdout,
        )  # fmt: skip


def _pair(part: str, images: int, pixels: str, labels: str) -> tuple[IdxFile, IdxFile]:
    return (
        IdxFile(f"{part}-images-idx3-ubyte", (images, SIDE, SIDE), sha256=pixels),
        IdxFile(f"{part}-labels-idx1-ubyte", (images,), sha256=labels),
    )


FULL: Final = Manifest(
    name="fashion-mnist",
    train=_pair("train", 60_000,
                pixels="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                labels="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    test=_pair("t10k", 10_000,
               pixels="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
               labels="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    holdout=5_000,
)  # fmt: skip

SAMPLE: Final = Manifest(
    name="sample",
    train=_pair("train", 7_000,
                pixels="cc4decef22bed64cf26dff259171f16f3810bc2190b7d7eafa3ec70df1bfed0f",
                labels="6c8409ecd248109b53c1a56731857caea94082c7b11d37a5ccdb0e0987fafde8"),
    test=_pair("t10k", 1_000,
               pixels="3364bf90388c50cdb6d8754288c094773163c153a35a7e5f0daca87bb02fa082",
               labels="4514269c7768576d4f47f7a5c75e27eba60c29159194dc18ab52d04104432692"),
    holdout=1_000,
)  # fmt: skip

MANIFESTS: Final[dict[DatasetName, Manifest]] = {"fashion-mnist": FULL, "sample": SAMPLE}


@dataclass(frozen=True)
class FashionSource:
    """FashionMNIST, or the sample of it, in a folder of four files."""

    manifest: Manifest
    folder: Path

    @property
    def spec(self) -> ImageSpec:
        """The description of the images."""
        return self.manifest.spec

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def read(self, part: Part) -> Labelled:
        """Read and verify the training or the test images, uint8 `(N, 28, 28, 1)`.

        Raises:
            DataError: the files cannot be read, or their checksums differ.
        """
        files = self.manifest.train if part == "train" else self.manifest.test
        pixels, labels = (read_idx(self.folder, file) for file in files)
        if labels.max() >= len(CLASSES):
            raise DataError(f"{self.folder / files[1].name}: label {labels.max()}. The labels must be 0 to 9.")
        return Labelled(pixels[..., None], labels.astype(np.int64))


def locate(data_dir: Path | None = None) -> Path | None:
    """Return the first folder that holds the four files of FashionMNIST, raw or gzipped, or None.

    If `data_dir` or SWEEPER_DATA_DIR is given, only that folder is searched; it may be torchvision's root. Else the
    cache is searched, then the folder of Debian's package dataset-fashion-mnist.

    Raises:
        DataError: the given folder does not hold the files.
    """
    given = data_dir or os.environ.get("SWEEPER_DATA_DIR")
    if given:
        return _check_complete(Path(given))
    return next((folder for folder in (cache_dir(), SYSTEM_DIR) if _is_complete(folder)), None)


def cache_dir() -> Path:
    """Return the folder that keeps a downloaded data set."""
    from platformdirs import user_cache_path

    return user_cache_path("sweeper") / "fashion-mnist"


def find(name: str, data_dir: Path | None = None) -> FashionSource:
    """Find `fashion-mnist` or `sample`. `auto` is FashionMNIST if it can be found or downloaded, else the sample.

    Raises:
        DataError: FashionMNIST can be neither found nor downloaded.
    """
    if name == "sample":
        return FashionSource(SAMPLE, SAMPLE_DIR)
    folder = locate(data_dir)
    try:
        return FashionSource(FULL, folder or download(cache_dir()))
    except DataError:
        if name == "auto":
            return FashionSource(SAMPLE, SAMPLE_DIR)
        raise


def download(folder: Path) -> Path:
    """Download FashionMNIST with torchvision, verify it, and return `folder`, which then holds it decompressed.

    Raises:
        DataError: torchvision cannot be imported, no mirror answers, the files are not those of FashionMNIST, or the
            folder cannot be written.
    """
    otherwise = (
        "Name its folder with --data-dir, install Debian's package dataset-fashion-mnist, or use --dataset sample."
    )
    with downloading("FashionMNIST", folder, otherwise) as part:
        from torchvision.datasets import FashionMNIST

        raw = Path(FashionMNIST(part, download=True).raw_folder)
        for file in FULL.train + FULL.test:
            read_idx(raw, file)
        folder.mkdir(exist_ok=True)
        for file in FULL.train + FULL.test:
            (raw / file.name).replace(folder / file.name)
    return folder


def read_idx(folder: Path, file: IdxFile) -> Array:
    """Read one idx file, raw or gzipped, and verify its length, header and SHA-256.

    Returns:
        uint8, of `file.shape`, read-only.

    Raises:
        DataError: the file is missing, unreadable or damaged, or its checksum differs.
    """
    path = _find(folder, file)
    if path is None:
        raise DataError(f"{folder / file.name}: no such file, raw or .gz. Download the data set again.")
    try:
        content = _content(path, file.size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({one_line(error, 200)}). Download it again.") from None
    wrong = ""
    if not content.startswith(file.header):
        wrong = f"its header is not that of an idx file of {'x'.join(map(str, file.shape))} bytes"
    elif len(content) != file.size:
        found = "more" if len(content) > file.size else len(content)
        wrong = f"{found} decompressed bytes instead of {file.size}"
    elif hashlib.sha256(content).hexdigest() != file.sha256:
        wrong = "its SHA-256 is wrong"
    if wrong:
        raise DataError(f"{path}: {wrong}. Download the file again.")
    return np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(file.shape)


def _content(path: Path, most: int) -> bytes:
    """Return the first `most` bytes of a file, decompressed if it is gzipped, and never more.

    Raises:
        EOFError, zlib.error: the file is not exactly one gzip stream, or too large for `most` bytes of content.
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
        raise EOFError("the gzip stream is truncated")
    if gzip.unused_data:
        raise EOFError("trailing data after the gzip stream")
    return content


def _find(folder: Path, file: IdxFile) -> Path | None:
    return next((path for path in (folder / file.name, folder / f"{file.name}.gz") if path.is_file()), None)


def _missing(folder: Path) -> list[str]:
    return [file.name for file in FULL.train + FULL.test if _find(folder, file) is None]


def _is_complete(folder: Path) -> bool:
    try:
        return not _missing(folder)
    except OSError:  # not ours to read
        return False


def _check_complete(folder: Path) -> Path:
    if below := next((folder / name for name in TORCHVISION if _is_complete(folder / name)), None):
        return below
    try:
        is_folder, missing = folder.is_dir(), _missing(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}). Name another folder.") from None
    if not is_folder:
        raise DataError(
            f"{folder}: not a folder. Name the folder with FashionMNIST's four files, or use other images with "
            "--dataset."
        )
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}, raw or .gz. Name a folder with FashionMNIST's four files or "
            "torchvision's root, or use other images with --dataset."
        )
    return folder
