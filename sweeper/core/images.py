"""The description of a data set of images. It travels with the images and stands in the record of each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ImageSpec:
    """A data set of labelled images.

    Attributes:
        name: as `--dataset` takes it.
        sha256: of the content; two data sets with one hash hold the same images and labels.
        classes: names of the classes; label k is `classes[k]`.
        shape: height, width and channels of an image; 1 channel is grey, 3 are red, green and blue.
        mean: of the training images, one value per channel, pixels in [0, 1].
        std: standard deviation of the same.
        train_images: number of training images, those to hold out included.
        test_images: number of test images.
        holdout: number of training images that `split=holdout` validates on.
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int
    test_images: int
    holdout: int

    @property
    def padding(self) -> int:
        """Pixels that an augmented crop may shift an image by: 2 at a side of 28, 4 at 32, an eighth elsewhere."""
        side = min(self.shape[:2])
        return 2 if side == 28 else max(1, side // 8)
