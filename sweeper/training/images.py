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
        """The same images on `device`: these, if they are there."""
        there = self.pixels.to(device), self.labels.to(device)
        return self if there[0] is self.pixels else Images(*there)

    def joined(self, others: Images) -> Images:
        """These images, then the others."""
        return Images(torch.cat([self.pixels, others.pixels]), torch.cat([self.labels, others.labels]))

    @cached_property
    def padded(self) -> Tensor:
        """Pixels with a border of `PADDING` zeros, uint8 `(N, 32, 32)`."""
        return torch.nn.functional.pad(self.pixels, (PADDING,) * 4)


@dataclass(frozen=True)
class Data:
    """What a run may see: the images it trains on, and those that judge each epoch."""

    train: Images
    val: Images

    def arrays(self) -> Split:
        """The same memory as arrays."""
        train, val = (Labelled(images.pixels.numpy(), images.labels.numpy()) for images in (self.train, self.val))
        return Split(train, val)

    @classmethod
    def from_arrays(cls, split: Split) -> Data:
        """The data of `split`, of the same memory; it may be read-only, as nothing is ever written to data."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            train, val = (
                Images(torch.from_numpy(images.pixels), torch.from_numpy(images.labels))
                for images in (split.train, split.val)
            )
        return cls(train, val)


def load(config: RunConfig, folder: Path) -> list[Data]:
    """What `splits.load` gives, as tensors."""
    return [Data.from_arrays(split) for split in splits.load(config, folder)]


def load_test(config: RunConfig, folder: Path) -> Data:
    """What `splits.load_test` gives, as tensors."""
    return Data.from_arrays(splits.load_test(config, folder))


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on `device`, which fetches them when it comes to that: nobody waits for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def normalize(pixels: Tensor) -> Tensor:
    """uint8 `(B, 28, 28)` to float32 `(B, 1, 28, 28)`, standardised by the training images' mean and std."""
    return pixels.float().mul_(1 / (255 * STD)).sub_(MEAN / STD).unsqueeze(1)
