"""A user's own data set: decoded images, and the source that decodes them where they are needed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from sweeper.core.errors import DataError
from sweeper.core.images import Array, ImageSpec
from sweeper.core.memory import free_memory
from sweeper.data.images import Labelled, Part

MOST_CLASSES: Final = 1_000
COPIES: Final = 3  # of the images in memory: as they were read, as split, and shared with the workers
CHUNK: Final = 1_000  # images that are counted together
TENTH: Final = 10  # of the training images are held out


@dataclass(frozen=True)
class Decoded:
    """The images of a data set, the names of their classes, and remarks for the user."""

    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnSource:
    """A data set that `decode` reads. It is pickled without pixels, and reads them again where it is unpickled.

    Attributes:
        name: as `--dataset` takes it, with absolute paths.
        place: the folder, file or function that the images come from.
        decode: reads the images; it can be pickled.
        sha256: the SHA-256 that the images must have; empty for any.
    """

    name: str
    place: str
    decode: Callable[[], Decoded]
    sha256: str = ""

    @cached_property
    def decoded(self) -> Decoded:
        """The images, read once.

        Raises:
            DataError: they cannot be read, or cannot be trained on.
        """
        return _checked(self.name, self.decode())

    @cached_property
    def spec(self) -> ImageSpec:
        """The description of the images."""
        found = self.decoded
        digest = _digest(found)
        check_unchanged(self.name, self.sha256, digest)
        mean, std = _moments(self.name, found.train.pixels)
        height, width, channels = found.train.pixels.shape[1:]
        return ImageSpec(
            self.name, digest, found.classes, (height, width, channels), mean, std, train_images=len(found.train),
            test_images=len(found.test), holdout=share_of(found.train.labels, 1 / TENTH),
        )  # fmt: skip

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on the images, for the user."""
        return self.decoded.remarks

    def read(self, part: Part) -> Labelled:
        """Return the training or the test images.

        Raises:
            DataError: they cannot be read, or have changed.
        """
        assert self.spec
        return self.decoded.train if part == "train" else self.decoded.test

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnSource, (self.name, self.place, self.decode, self.spec.sha256)


def check_unchanged(name: str, before: str, now: str) -> None:
    """Refuse images that have changed since they were recorded.

    Args:
        name: of the data set.
        before: SHA-256 of the recorded images; empty if it is not known.
        now: SHA-256 of the present images.

    Raises:
        DataError: the two differ.
    """
    if before and before != now:
        raise DataError(
            f"the images of {name} have changed since they were recorded: their SHA-256 was {before[:12]}…, now "
            f"{now[:12]}…. Restore them, or name a copy of the old ones with --dataset."
        )


def check_room(name: str, needed: int, free: int | None = None) -> None:
    """Refuse images that do not fit into memory.

    Args:
        name: of the data set.
        needed: bytes that are about to be allocated for it.
        free: bytes of free memory; measured by default.

    Raises:
        DataError: less than `needed` is free.
    """
    left = free_memory() if free is None else free
    if needed > left:
        raise DataError(
            f"{name}: the images need {needed / 1e9:.1f} GB of memory, and only {left / 1e9:.1f} GB are free. Use "
            "fewer or smaller images, or a machine with more memory."
        )


def share_of(labels: Array, share: float) -> int:
    """Return the number of images in a share of all images, at least one per class."""
    return max(round(len(labels) * share), len(np.unique(labels)))


def _checked(name: str, found: Decoded) -> Decoded:
    """Return the images, or refuse data that cannot be trained on."""
    classes = len(found.classes)
    if not 2 <= classes <= MOST_CLASSES:
        raise DataError(f"{name}: {classes} classes. Use 2 to {MOST_CLASSES:,} classes.")
    if len(set(found.classes)) < classes:
        twice = next(each for each in found.classes if found.classes.count(each) > 1)
        raise DataError(f"{name}: two classes have the name {twice!r}. Rename one of them.")
    if not len(found.test):
        raise DataError(f"{name}: no test images. Add some: the champion of a sweep is evaluated on them.")
    counts = np.bincount(found.train.labels, minlength=classes)
    few = int(counts.argmin())
    if counts[few] < 2:
        has = "no training image" if not counts[few] else "1 training image"
        raise DataError(
            f"{name}: class {found.classes[few]!r} (label {few}) has {has}. Each class needs at least 2, one "
            "to train and one to validate on. Labels must run from 0 to the number of classes - 1."
        )
    return found


def _digest(found: Decoded) -> str:
    """Return the SHA-256 of the class names and of each array's shape, type and bytes."""
    digest = hashlib.sha256(json.dumps(found.classes).encode())
    for part in (found.train, found.test):
        for array in (part.pixels, part.labels):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _moments(name: str, pixels: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, pixels in [0, 1], from counts of the 256 values.

    Sums of integers are exact, so the result is the same on every machine. A constant channel gets a standard deviation
    of 1, to avoid a division by 0.

    Raises:
        DataError: every channel is constant.
    """
    counts = np.zeros((pixels.shape[3], 256), np.int64)
    for start in range(0, len(pixels), CHUNK):
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[start : start + CHUNK, :, :, channel].ravel(), minlength=256)
    values = np.arange(256)
    sums, squares = (counts * values).sum(1).tolist(), (counts * values**2).sum(1).tolist()
    size: int = counts[0].sum().item()
    spread = [size * square - total**2 for total, square in zip(sums, squares, strict=True)]
    if not any(spread):
        raise DataError(f"{name}: every training image is one uniform colour. Check the images.")
    means = tuple(total / (255 * size) for total in sums)
    return means, tuple(math.sqrt(each) / (255 * size) or 1.0 for each in spread)
