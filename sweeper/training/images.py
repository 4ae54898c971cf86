"""Images and labels as tensors on a device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import MEAN, STD
from sweeper.data import splits
from sweeper.data.splits import Labelled, Split

PADDING: Final = 2  # pixels an augmented crop may shift by


@dataclass(frozen=True)
class Images:
    """Labelled images: `pixels` uint8 `(N, 28, 28)`, `labels` int64 `(N,)`."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])

    def first(self, size: int) -> Images:
        """The first `size` images."""
        return Images(self.pixels[:size], self.labels[:size])

    def to(self, device: torch.device) -> Images:
        """Return the same images on `device`; this object if they are there already."""
        there = self.pixels.to(device), self.labels.to(device)
        return self if there[0] is self.pixels else Images(*there)

    def joined(self, others: Images) -> Images:
        """Return these images, then the others."""
        return Images(torch.cat([self.pixels, others.pixels]), torch.cat([self.labels, others.labels]))

    @cached_property
    def padded(self) -> Tensor:
        """Pixels with a border of `PADDING` zeros, uint8 `(N, 32, 32)`."""
        return torch.nn.functional.pad(self.pixels, (PADDING,) * 4)


@dataclass(frozen=True)
class Data:
    """The images that a run trains on, and those that validate each epoch."""

    train: Images
    val: Images

    def arrays(self) -> Split:
        """Return the same memory as arrays."""
        train, val = (Labelled(images.pixels.numpy(), images.labels.numpy()) for images in (self.train, self.val))
        return Split(train, val)

    @classmethod
    def from_arrays(cls, split: Split) -> Data:
        """Return the data of `split`, sharing its memory. It may be read-only: nothing is ever written to data."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            train, val = (
                Images(torch.from_numpy(images.pixels), torch.from_numpy(images.labels))
                for images in (split.train, split.val)
            )
        return cls(train, val)


def load(config: RunConfig, folder: Path) -> list[Data]:
    """Return the splits of `splits.load` as tensors."""
    return [Data.from_arrays(split) for split in splits.load(config, folder)]


def load_test(config: RunConfig, folder: Path) -> Data:
    """Return the split of `splits.load_test` as tensors."""
    return Data.from_arrays(splits.load_test(config, folder))


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` of the CPU on `device`, without waiting for the copy."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def normalize(pixels: Tensor) -> Tensor:
    """Return uint8 `(B, 28, 28)` as float32 `(B, 1, 28, 28)`, standardised by the training images' mean and std."""
    return pixels.float().mul_(1 / (255 * STD)).sub_(MEAN / STD).unsqueeze(1)
