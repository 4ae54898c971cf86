"""Find test images that all but repeat a training image, by their nearest neighbour in the pixels.

FashionMNIST holds many such pairs (Geier 2019, arXiv 1906.08255). A network that has memorised one image of a pair is
right about the other, so an accuracy is reported with and without them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from sweeper.training.images import Images

THRESHOLD: Final = 0.06  # root mean square of differences of pixels in [0, 1]; docs/results/reproduction.md
LEVELS: Final = 255
IMAGES: Final = 1_000  # in a product: with 10,000 queries it takes 80 MB


class Nearest(NamedTuple):
    """The nearest of other images to each query image."""

    index: Tensor  # int64 (N,), its place
    rms: Tensor  # float64 (N,), root mean square of the differences of the pixels, scaled to [0, 1]


def near_duplicates(train: Images, test: Images, threshold: float = THRESHOLD) -> Tensor:
    """Mark the test images that differ from some training image by less than `threshold`: bool `(N,)`."""
    return nearest(test.pixels, train.pixels).rms < threshold


def nearest(queries: Tensor, images: Tensor) -> Nearest:
    """Find the nearest of `images` to each of `queries`, both uint8 `(N, 28, 28)`.

    By |a - b|² = |a|² + |b|² - 2ab: in float64 these sums of whole numbers are exact.
    """
    flat = queries.flatten(1).double()
    squares = flat.square().sum(1)[:, None]
    index = torch.zeros(len(queries), dtype=torch.int64)
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    for start in range(0, len(images), IMAGES):
        others = images[start : start + IMAGES].flatten(1).double()
        squared = squares + others.square().sum(1) - 2 * flat @ others.T  # (queries, images)
        distance, place = squared.min(1)
        index = torch.where(distance < best, place + start, index)
        best = torch.minimum(best, distance)
    return Nearest(index, (best / flat.shape[1]).sqrt() / LEVELS)
