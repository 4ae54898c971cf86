"""Test images that all but repeat a training image: found by their nearest neighbour in the pixels.

FashionMNIST holds many such pairs (Geier 2019, arXiv 1906.08255). A network that has learned the one by heart is right
about the other, so that an accuracy is said with and without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from sweeper.training.images import Images

THRESHOLD: Final = 0.06  # root mean square of the differences of pixels in [0, 1]; docs/reproduction.md says why
LEVELS: Final = 255
MIDDLE: Final = 128  # taken from the pixels before they are multiplied
QUERIES: Final = 500  # in a product: with CANDIDATES it stays in some ten megabytes
CANDIDATES: Final = 5_000


@dataclass(frozen=True)
class Nearest:
    """Of each query image the nearest of other images: its place, int64 `(N,)`, and the sum of the squared differences
    of their pixels in 0 to 255, int64 `(N,)`; `pixels` is how many an image has."""

    index: Tensor
    squared: Tensor
    pixels: int

    @property
    def rms(self) -> Tensor:
        """Root mean square of the differences of the pixels, scaled to [0, 1]: float64 `(N,)`."""
        return (self.squared.double() / self.pixels).sqrt() / LEVELS


def near_duplicates(train: Images, test: Images, threshold: float = THRESHOLD) -> Tensor:
    """Which of the test images differ from some training image by less than `threshold`: bool `(N,)`."""
    return nearest(test.pixels, train.pixels).rms < threshold


def nearest(queries: Tensor, images: Tensor) -> Nearest:
    """The nearest of `images` to each of `queries`, both uint8 `(N, 28, 28)`; of several, the first.

    By |a - b|² = |a|² + |b|² - 2ab, with the products of many at once in float32. With the middle taken from the
    pixels, a sum of 784 products stays below 2²⁴, so that every partial sum is a whole number that float32 holds: the
    products are exact. Half of |b|² - 2ab is exact as well where it is below 2²³, which the nearest is. The nearest of
    each block of images is measured again in whole numbers, and the nearest of these is the answer.
    """
    centred = _centred(images)
    halves = centred.square().sum(1) / 2
    found = [_of_block(block, _centred(block), images, centred, halves) for block in queries.split(QUERIES)]
    index, squared = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Nearest(index, squared, queries[0].numel())


def nearest_slowly(queries: Tensor, images: Tensor) -> Nearest:
    """As `nearest`, in whole numbers, an image after the other: the reference."""
    squared = torch.stack([_squared(query, images) for query in queries])  # (Q, N)
    best = squared.argmin(1)
    return Nearest(best, squared.gather(1, best[:, None])[:, 0], queries[0].numel())


def _centred(pixels: Tensor) -> Tensor:
    return pixels.flatten(1).float() - MIDDLE


def _of_block(
    queries: Tensor, centred: Tensor, images: Tensor, others: Tensor, halves: Tensor
) -> tuple[Tensor, Tensor]:
    """Place and squared distance of the nearest image to each of a few queries."""
    best = [
        (half - centred @ other.T).argmin(1) + block * CANDIDATES
        for block, (other, half) in enumerate(zip(others.split(CANDIDATES), halves.split(CANDIDATES), strict=True))
    ]
    candidates = torch.stack(best, 1)  # (Q, blocks), in the order of the images
    squared = torch.stack([_squared(queries, images[places]) for places in candidates.T], 1)
    first = squared.argmin(1, keepdim=True)
    return candidates.gather(1, first)[:, 0], squared.gather(1, first)[:, 0]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the squared differences of the pixels of each pair, int64."""
    return (a.int() - b.int()).square().flatten(-2).sum(-1)
