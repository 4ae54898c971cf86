"""Near-duplicates, against distances computed image by image."""

from __future__ import annotations

import pytest
import torch

from benchmarks.duplicates import THRESHOLD, near_duplicates, nearest
from sweeper.data.fashion import SAMPLE
from sweeper.training.images import Data, Images


def test_the_nearest_is_that_in_whole_numbers(sample: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, images = sample.val.pixels[:150], sample.train.pixels[:600]
    squared = torch.stack([(query.int() - images.int()).square().flatten(1).sum(1) for query in queries])
    monkeypatch.setattr("benchmarks.duplicates.IMAGES", 250)
    found = nearest(queries, images)
    assert torch.equal(found.index, squared.argmin(1))
    assert torch.equal(found.rms, (squared.min(1).values.double() / 784).sqrt() / 255)


def test_the_distance_is_the_root_mean_square_of_pixels_in_0_to_1() -> None:
    black, white = torch.zeros(1, 28, 28, dtype=torch.uint8), torch.full((1, 28, 28), 255, dtype=torch.uint8)
    assert nearest(black, white).rms.tolist() == [1.0]
    half = white.clone()
    half[0, :14] = 0
    assert nearest(half, white).rms.tolist() == pytest.approx([0.5**0.5])


def test_a_near_duplicate_differs_by_less_than_the_threshold() -> None:
    labels = torch.zeros(1, dtype=torch.long)
    train = Images(torch.zeros(1, 28, 28, 1, dtype=torch.uint8), labels, SAMPLE.spec)
    levels = [int(255 * THRESHOLD), int(255 * THRESHOLD) + 1]  # a difference of 15 and 16 levels in every pixel
    pixels = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(2, 28, 28, 1)
    test = Images(pixels, labels.repeat(2), SAMPLE.spec)
    assert near_duplicates(train, test).tolist() == [True, False]
