from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import MEAN, SIDE, STD
from sweeper.training.batches import Augmentation, batch_sizes, batches
from sweeper.training.images import PADDING, Data, Images, normalize


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(images=st.integers(1, 2_000), batch_size=st.integers(1, 2_100))
def test_no_batch_but_the_only_one_holds_a_single_image(images: int, batch_size: int):
    sizes = batch_sizes(images, batch_size)
    assert sum(sizes) == images
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size + 1
    assert sizes[-1] > 1 or images == 1 or batch_size == 1


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(6, 2, [2, 2, 2]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (3, 2, [3]), (3, 1, [1, 1, 1]), (1, 4, [1]), (4, 9, [4])],
)
def test_a_last_batch_of_one_is_merged_into_the_one_before(images: int, batch_size: int, sizes: list[int]):
    assert batch_sizes(images, batch_size) == sizes


def augmented_slowly(image: Tensor, dy: int, dx: int, flip: bool, rectangle: list[int]) -> Tensor:
    """One image, one step at a time: pad, crop, mirror, erase."""
    canvas = torch.zeros(SIDE + 2 * PADDING, SIDE + 2 * PADDING, dtype=torch.uint8)
    canvas[PADDING : PADDING + SIDE, PADDING : PADDING + SIDE] = image
    result = canvas[dy : dy + SIDE, dx : dx + SIDE].clone()
    if flip:
        result = result.fliplr()
    top, left, height, width = rectangle
    result[top : top + height, left : left + width] = 0
    return result


@pytest.mark.parametrize("erase", [False, True])
def test_augmentation_equals_its_slow_reference(tiny: Data, erase: bool):
    images = tiny.train
    drawn = Augmentation.draw(len(images), erase, seeded(3))
    index = torch.randperm(len(images), generator=seeded(4))[:200]
    fast = drawn.apply(images, index)
    assert fast.dtype == torch.uint8
    for i, result in zip(index.tolist(), fast, strict=True):
        rectangle = [0, 0, 0, 0] if drawn.erase is None else drawn.erase[i].tolist()
        slow = augmented_slowly(images.pixels[i], int(drawn.dy[i]), int(drawn.dx[i]), bool(drawn.flip[i]), rectangle)
        assert torch.equal(result, slow)


def test_augmentation_draws_every_shift_and_mirrors_half_of_the_images():
    drawn = Augmentation.draw(10_000, False, seeded(0))
    for shift in (drawn.dy, drawn.dx):
        counts = torch.bincount(shift, minlength=5)
        assert counts.shape == (5,)
        assert ((counts > 1_800) & (counts < 2_200)).all()
    assert 4_800 < drawn.flip.sum() < 5_200


def test_erasing_takes_a_rectangle_of_1_5_to_35_percent_of_half_of_the_images():
    drawn = Augmentation.draw(100_000, True, seeded(0))
    assert drawn.erase is not None
    top, left, height, width = drawn.erase.unbind(1)
    erased = height > 0
    assert 49_000 < erased.sum() < 51_000
    assert (torch.stack([top, left]) >= 0).all()
    assert ((top + height <= SIDE) & (left + width <= SIDE)).all()
    share = (height * width)[erased] / SIDE**2
    assert round(float(share.min()), 3) == 0.015  # drawn between 0.02 and 0.33; sides are rounded to pixels
    assert round(float(share.max()), 2) == 0.35


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "crop-flip-erase"])
def test_an_epoch_is_reproducible_from_its_seed(tiny: Data, augmentation: str):
    config = RunConfig(batch_size=64, augmentation=augmentation)
    first, again, other = (
        torch.cat([pixels for pixels, _ in batches(tiny.train, config, seeded(seed))]) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_draws_nothing_from_torchs_own_generator(tiny: Data):
    before = torch.get_rng_state()
    for _ in batches(tiny.train, RunConfig(augmentation="crop-flip-erase"), seeded(5)):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_holds_each_image_once_in_a_fresh_order_with_its_label():
    images = Images(torch.arange(300, dtype=torch.int16)[:, None, None], torch.arange(300) % 10)
    generator = seeded(0)
    orders = []
    for _ in range(2):
        epoch = list(batches(images, RunConfig(batch_size=64), generator))
        assert [len(labels) for _, labels in epoch] == [64, 64, 64, 64, 44]
        order = torch.cat([pixels for pixels, _ in epoch]).flatten().long()
        assert torch.equal(torch.cat([labels for _, labels in epoch]), images.labels[order])
        assert sorted(order.tolist()) == list(range(300))
        orders.append(order.tolist())
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("augmentation", ["crop-flip", "crop-flip-erase"])
def test_augmented_images_keep_their_labels(augmentation: str):
    labels = torch.arange(250) % 10
    bright = Images((labels * 20 + 20).to(torch.uint8)[:, None, None].expand(-1, SIDE, SIDE).contiguous(), labels)
    for pixels, expected in batches(bright, RunConfig(batch_size=50, augmentation=augmentation), seeded(0)):
        assert torch.equal(pixels.amax((1, 2)).long() // 20 - 1, expected)


def test_normalize_standardises_with_the_training_sets_mean_and_deviation(sample: Data):
    pixels = sample.train.pixels.clone()
    images = normalize(pixels)
    assert images.shape == (6_000, 1, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert torch.allclose(images[:9, 0], (pixels[:9].double() / 255 - MEAN).div(STD).float(), atol=1e-6)
    assert abs(images.mean()) < 0.02  # the sample's own mean and deviation are close to those of the 60,000
    assert abs(images.std() - 1) < 0.02
    assert torch.equal(pixels, sample.train.pixels)
