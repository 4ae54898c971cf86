"""A folder of pictures: `DIR/CLASS/*.png`, or `DIR/train/CLASS/…` and `DIR/test/CLASS/…`."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from sweeper.core.cores import cores
from sweeper.core.dataset import FOLDER, MAX_SIDE, MIN_SIDE
from sweeper.core.errors import DataError, one_line
from sweeper.core.images import Array
from sweeper.core.text import counted
from sweeper.data.images import Labelled
from sweeper.data.own import COPIES, Decoded, OwnSource, check_room, share_of
from sweeper.data.splits import holdout

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
PARTS: Final = ("train", "test")
TEST_SHARE: Final = 0.15  # of the pictures of a folder without a test part
GREY: Final = ("1", "L", "LA")  # Pillow's modes
DEEP: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # with more than 8 bits a pixel

Files = Mapping[str, Sequence[Path]]  # the pictures of each class


class Header(NamedTuple):
    """Width and height of a picture, and Pillow's name of its mode."""

    size: tuple[int, int]
    mode: str


def folder_source(name: str, side: int) -> OwnSource:
    """Return the source of `folder:DIR`. Its pictures are resized to `side`; 0 means their most frequent size."""
    folder = name.removeprefix(FOLDER)
    return OwnSource(name, folder, partial(read_folder, folder, side))


def read_folder(folder: str, side: int) -> Decoded:
    """Decode the pictures of a folder.

    Raises:
        DataError: the folder or a picture cannot be read, or the pictures cannot be trained on.
    """
    root = Path(folder)
    parts = [_files(part) for part in _parts(root)]
    classes = tuple(parts[0])
    if more := [name for name in parts[-1] if name not in classes]:
        raise DataError(
            f"{root / PARTS[1] / more[0]}: this class has no folder in {PARTS[0]}. Both must have the same classes."
        )
    paths = [path for part in parts for name in classes for path in part.get(name, ())]
    if not paths:
        raise DataError(f"{root} holds no pictures. Put them into a folder for each class, {root}/CLASS/*.png.")
    pixels, remarks = _decode(root, paths, side)
    labels = [label for part in parts for label, name in enumerate(classes) for _ in part.get(name, ())]
    everything = Labelled(pixels, np.array(labels, np.int64))
    if len(parts) == 1:
        test = share_of(everything.labels, TEST_SHARE)
        remarks.append(f"no folder of test images: {test:,} of {counted(len(paths), 'picture')} become the test images")
        return Decoded(*holdout(everything, test), classes, tuple(remarks))
    train = sum(map(len, parts[0].values()))
    return Decoded(everything[:train], everything[train:], classes, tuple(remarks))


def _parts(root: Path) -> list[Path]:
    """Return the folder of the training images, and that of the test images if there is one."""
    folders = _folders(root)
    if not any(folder.name in PARTS and _folders(folder) for folder in folders):
        return [root]  # a folder of pictures may be a class of the name `train`
    if stranger := [folder for folder in folders if folder.name not in PARTS]:
        raise DataError(f"{stranger[0]}: {root} may only hold train and test. Move it away, or rename it to test.")
    if not (root / PARTS[0]).is_dir():
        raise DataError(f"{root / PARTS[0]}: no such folder next to {PARTS[1]}. Put the training images into it.")
    return folders[::-1]  # train comes after test


def _files(part: Path) -> Files:
    """Return the pictures of each class; classes and pictures are sorted by name."""
    return {folder.name: sorted(_pictures(folder)) for folder in _folders(part)}


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}). Name another folder.") from None


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures of a class, subfolders included; other files are ignored."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Repair it, or move it away.") from None

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(where, name) for name in names if name.lower().endswith(ENDINGS) and not name.startswith("."))


def _decode(root: Path, paths: Sequence[Path], side: int) -> tuple[Array, list[str]]:
    """Return the pixels of all pictures, uint8 `(N, H, W, C)`, and remarks on conversions."""
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as threads:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        headers = list(threads.map(_header, paths))
        size = (side, side) if side else _usual_size(root, headers)
        grey = sum(header.mode in GREY for header in headers)
        channels = 1 if grey == len(paths) else 3
        check_room(str(root), COPIES * len(paths) * size[0] * size[1] * channels)
        pixels = np.empty((len(paths), size[1], size[0], channels), np.uint8)
        for index, picture in enumerate(threads.map(partial(_picture, size=size, channels=channels), paths)):
            pixels[index] = picture
    remarks = []
    if resized := sum(header.size != size for header in headers):
        remarks.append(f"resized {resized:,} of {counted(len(paths), 'picture')} to {size[0]}x{size[1]} pixels")
    if channels == 3 and grey:
        remarks.append(f"converted {grey:,} grey of {counted(len(paths), 'picture')} to colour")
    return pixels, remarks


def _usual_size(root: Path, headers: Sequence[Header]) -> tuple[int, int]:
    """Return the most frequent width and height; in a tie, the largest."""
    counts = Counter(header.size for header in headers)
    width, height = max(counts, key=lambda size: (counts[size], size))
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise DataError(
            f"{root}: most pictures are {width}x{height}. Images must have {MIN_SIDE} to {MAX_SIDE} pixels per side. "
            "Resize them, for example with --image-size 64."
        )
    return width, height


def _header(path: Path) -> Header:
    try:
        with Image.open(path) as picture:
            found = Header(picture.size, picture.mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unreadable(path, error) from None
    if found.mode in DEEP:
        raise DataError(f"{path}: more than 8 bits per channel. Convert it to 8 bits.")
    return found


def _picture(path: Path, size: tuple[int, int], channels: int) -> Array:
    """Return the pixels of one picture, uint8 `(H, W, C)`."""
    try:
        with Image.open(path) as picture:
            converted = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    if converted.size != size:
        converted = converted.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(converted).reshape(size[1], size[0], channels)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or one_line(error, 200).replace(f" {str(path)!r}", "")
    return DataError(f"{path} cannot be read as a picture ({reason}). Replace it, or move it away.")
