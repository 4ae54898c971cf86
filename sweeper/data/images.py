"""Labelled images as arrays, and the interface of their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sweeper.core.images import Array, ImageSpec

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Labelled:
    """Labelled images: `pixels` uint8 `(N, H, W, C)`, `labels` int64 `(N,)`."""

    pixels: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Array | slice) -> Labelled:
        return Labelled(self.pixels[index], self.labels[index])


class ImageSource(Protocol):
    """A data set of images. It is pickled without pixels, as it is sent to other processes."""

    @property
    def spec(self) -> ImageSpec:
        """The description of the images."""

    @property
    def place(self) -> str:
        """The folder, file or function that the images come from."""

    def read(self, part: Part) -> Labelled:
        """Read the training or the test images.

        Raises:
            DataError: they cannot be read, or differ from `spec`.
        """
