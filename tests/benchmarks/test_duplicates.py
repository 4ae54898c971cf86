"""Near-duplicates: the fast search against the slow one, on real images and on the worst there can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.duplicates import THRESHOLD, Nearest, near_duplicates, nearest, nearest_slowly
from sweeper.training.images import Data, Images


def assert_equal(found: Nearest, expected: Nearest) -> None:
    assert (found.index.tolist(), found.squared.tolist()) == (expected.index.tolist(), expected.squared.tolist())


@pytest.mark.parametrize("block", [7, 100, 5_000])
def test_the_fast_search_finds_what_the_slow_one_finds(
    sample: Data, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("benchmarks.duplicates.CANDIDATES", block)
    monkeypatch.setattr("benchmarks.duplicates.QUERIES", 64)
    queries, images = sample.val.pixels[:150], sample.train.pixels[:600]
    assert_equal(nearest(queries, images), nearest_slowly(queries, images))


def extreme(count: int) -> Tensor:
    """Images of nothing but 0 and 255."""
    return 255 * torch.randint(0, 2, (count, 28, 28), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_one_level_in_one_pixel_decides() -> None:
    white = torch.full((28, 28), 255, dtype=torch.uint8)
    images = white.repeat(2, 1, 1)
    images[0, 0, :2] -= 1  # in rounded products no farther away than the other, and before it
    images[1, 0, 0] -= 1
    found = nearest(white[None], images)
    assert_equal(found, nearest_slowly(white[None], images))
    assert (found.index.tolist(), found.squared.tolist()) == ([1], [1])


def test_of_neighbours_that_are_equally_near_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.duplicates.CANDIDATES", 10)
    images = extreme(4).repeat(9, 1, 1)
    assert nearest(images[:4], images).index.tolist() == [0, 1, 2, 3]


def test_the_distance_is_the_root_mean_square_of_pixels_in_0_to_1() -> None:
    black, white = torch.zeros(1, 28, 28, dtype=torch.uint8), torch.full((1, 28, 28), 255, dtype=torch.uint8)
    assert nearest(black, white).rms.tolist() == [1.0]
    half = white.clone()
    half[0, :14] = 0
    assert nearest(half, white).rms.tolist() == pytest.approx([0.5**0.5])


def test_a_near_duplicate_differs_by_less_than_the_threshold() -> None:
    labels = torch.zeros(1, dtype=torch.long)
    train = Images(torch.zeros(1, 28, 28, dtype=torch.uint8), labels)
    levels = [int(255 * THRESHOLD), int(255 * THRESHOLD) + 1]  # a difference of 15 and 16 levels in every pixel
    test = Images(torch.tensor(levels, dtype=torch.uint8)[:, None, None].expand(2, 28, 28), labels.repeat(2))
    assert near_duplicates(train, test).tolist() == [True, False]
