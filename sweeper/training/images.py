"""Images and labels as tensors on a device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.data import splits
from sweeper.data.images import ImageSource, Labelled
from sweeper.data.splits import Split


@dataclass(frozen=True)
class Images:
    """Labelled images of one data set: `pixels` uint8 `(N, H, W, C)`, `labels` int64 `(N,)`."""

    pixels: Tensor
    labels: Tensor
    spec: ImageSpec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index], self.spec)

    def first(self, size: int) -> Images:
        """The first `size` images."""
        return Images(self.pixels[:size], self.labels[:size], self.spec)

    def to(self, device: torch.device) -> Images:
        """Return the same images on `device`; this object if they are there already."""
        there = self.pixels.to(device), self.labels.to(device)
        return self if there[0] is self.pixels else Images(*there, self.spec)

    def joined(self, others: Images) -> Images:
        """Return these images, then the others."""
        return Images(
            torch.cat([self.pixels, others.pixels]), torch.cat([self.labels, others.labels]), self.spec
        )  # fmt: skip

    @cached_property
    def padded(self) -> Tensor:
        """Pixels with a border of `spec.padding` = P zeros, uint8 `(N, H + 2P, W + 2P, C)`."""
        return torch.nn.functional.pad(self.pixels, (0, 0) + (self.spec.padding,) * 4)


@dataclass(frozen=True)
class Data:
    """The images that a run trains on, and those that validate each epoch."""

    train: Images
    val: Images

    @property
    def spec(self) -> ImageSpec:
        """The description of the data set."""
        return self.train.spec

    def arrays(self) -> Split:
        """Return the same memory as arrays."""
        train, val = (Labelled(images.pixels.numpy(), images.labels.numpy()) for images in (self.train, self.val))
        return Split(train, val, self.spec)

    @classmethod
    def from_arrays(cls, split: Split) -> Data:
        """Return the data of `split`, sharing its memory. It may be read-only: nothing is ever written to data."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            train, val = (
                Images(torch.from_numpy(images.pixels), torch.from_numpy(images.labels), split.spec)
                for images in (split.train, split.val)
            )
        return cls(train, val)


def load(config: RunConfig, source: ImageSource) -> list[Data]:
    """Return the splits of `splits.load` as tensors."""
    return [Data.from_arrays(split) for split in splits.load(config, source)]


def load_test(source: ImageSource) -> Data:
    """Return the split of `splits.load_test` as tensors."""
    return Data.from_arrays(splits.load_test(source))


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` of the CPU on `device`, without waiting for the copy."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def to_input(pixels: Tensor, spec: ImageSpec) -> Tensor:
    """Return uint8 `(B, H, W, C)` as networks take it: float32 `(B, C, H, W)`, channels last in memory.

    Each channel is standardised by mean and standard deviation of the training images.
    """
    scale, shift = _standard(spec, pixels.device)
    return pixels.float().mul_(scale).sub_(shift).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _standard(spec: ImageSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factor of a pixel's value and what is then subtracted, each `(C,)`."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * std) for std in spec.std], device=device)
        shift = torch.tensor([mean / std for mean, std in zip(spec.mean, spec.std, strict=True)], device=device)
    return scale, shift
