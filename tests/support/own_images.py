"""Data sets of the user's own, cut from the embedded sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sweeper.core.images import Array
from sweeper.data.fashion import CLASSES, find
from sweeper.data.images import Labelled

KEPT = 7  # of the ten classes
DIGITS = '''
import numpy as np
from sklearn.datasets import load_digits


def digits():
    """The 1,797 digits of scikit-learn, 8x8 pixels of 0 to 16, the last 300 to test."""
    found = load_digits()
    pixels = (found.images * 15).astype(np.uint8)
    return pixels[:-300], found.target[:-300], pixels[-300:], found.target[-300:]
'''


def cut(images: int, part: str = "train") -> Labelled:
    """The first images of the sample, without three classes."""
    everything = find("sample").read("train" if part == "train" else "test")
    return everything[everything.labels < KEPT][:images]


def coloured(pixels: Array) -> Array:
    """Grey pixels `(N, 28, 28, 1)` in three different channels, `(N, 32, 32, 3)`, with a border."""
    channels = np.concatenate([pixels, pixels // 2, 255 - pixels], axis=3)
    return np.pad(channels, ((0, 0), (2, 2), (2, 2), (0, 0)))


def write_pictures(folder: Path, pixels: Array, labels: Array) -> Path:
    """Write pictures as `folder/CLASS/NUMBER.png`."""
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / CLASSES[label].replace("/", " ") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze()).save(path)
    return folder


def write_folder(folder: Path, images: int = 150) -> Path:
    """Write pictures in colour of seven classes, without a test part."""
    found = cut(images)
    return write_pictures(folder, coloured(found.pixels), found.labels)


def write_npz(path: Path, images: int = 150, **others: Array) -> Path:
    """Write an npz file in colour, of seven classes, with 70 test images; `others` replace its arrays."""
    train, test = cut(images), cut(70, "test")
    arrays = {"x_train": coloured(train.pixels), "y_train": train.labels, "x_test": coloured(test.pixels),
              "y_test": test.labels}  # fmt: skip
    np.savez(path, **(arrays | others))  # type: ignore[arg-type]
    return path
