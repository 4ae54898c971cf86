from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.data.fashion import MEAN, SAMPLE, SIDE, STD
from sweeper.training.batches import Augmentation, batch_sizes, batches
from sweeper.training.images import Data, Images, to_input


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


COLOUR = ImageSpec("colour", "", ("a", "b"), (32, 40, 3), (0.5,) * 3, (0.25,) * 3, 60, 20, 10)
KINDS = ("crop", "crop-flip", "crop-flip-erase")


def augmented_slowly(image: Tensor, dy: int, dx: int, flip: bool, rectangle: list[int], padding: int) -> Tensor:
    """One image `(H, W, C)`, one step at a time: pad, crop, mirror, erase."""
    height, width, channels = image.shape
    canvas = torch.zeros(height + 2 * padding, width + 2 * padding, channels, dtype=torch.uint8)
    canvas[padding : padding + height, padding : padding + width] = image
    result = canvas[dy : dy + height, dx : dx + width].clone()
    if flip:
        result = result.fliplr()
    top, left, high, wide = rectangle
    result[top : top + high, left : left + wide] = 0
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", [False, True], ids=["grey 28x28", "colour 32x40"])
def test_augmentation_equals_its_slow_reference(tiny: Data, kind: str, colour: bool):
    images = tiny.train
    if colour:
        pixels = torch.randint(0, 256, (300, *COLOUR.shape), dtype=torch.uint8, generator=seeded(1))
        images = Images(pixels, torch.arange(300) % 2, COLOUR)
    padding = 4 if colour else 2
    drawn = Augmentation.draw(kind, len(images), images.spec, seeded(3))
    index = torch.randperm(len(images), generator=seeded(4))[:200]
    fast = drawn.apply(images, index)
    assert (fast.dtype, fast.shape) == (torch.uint8, (200, *images.spec.shape))
    assert bool(drawn.flip.any()) == ("flip" in kind)
    for i, result in zip(index.tolist(), fast, strict=True):
        rectangle = [0, 0, 0, 0] if drawn.erase is None else drawn.erase[i].tolist()
        place = int(drawn.dy[i]), int(drawn.dx[i])
        slow = augmented_slowly(images.pixels[i], *place, bool(drawn.flip[i]), rectangle, padding)
        assert torch.equal(result, slow)


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (28, 2), (32, 4), (64, 8), (256, 32)])
def test_the_padding_follows_the_side(side: int, padding: int):
    assert replace(COLOUR, shape=(side, 256, 3)).padding == padding


def test_augmentation_draws_every_shift_and_mirrors_half_of_the_images():
    drawn = Augmentation.draw("crop-flip", 10_000, SAMPLE.spec, seeded(0))
    for shift in (drawn.dy, drawn.dx):
        counts = torch.bincount(shift, minlength=5)
        assert counts.shape == (5,)
        assert ((counts > 1_800) & (counts < 2_200)).all()
    assert 4_800 < drawn.flip.sum() < 5_200


def test_erasing_takes_a_rectangle_of_1_5_to_35_percent_of_half_of_the_images():
    drawn = Augmentation.draw("crop-flip-erase", 100_000, SAMPLE.spec, seeded(0))
    assert drawn.erase is not None
    top, left, height, width = drawn.erase.unbind(1)
    erased = height > 0
    assert 49_000 < erased.sum() < 51_000
    assert (torch.stack([top, left]) >= 0).all()
    assert ((top + height <= SIDE) & (left + width <= SIDE)).all()
    share = (height * width)[erased] / SIDE**2
    assert round(float(share.min()), 3) == 0.015  # drawn between 0.02 and 0.33; sides are rounded to pixels
    assert round(float(share.max()), 2) == 0.35


@pytest.mark.parametrize("augmentation", ["none", *KINDS])
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
    images = Images(torch.arange(300, dtype=torch.int16)[:, None, None, None], torch.arange(300) % 10, SAMPLE.spec)
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


@pytest.mark.parametrize("augmentation", KINDS)
def test_augmented_images_keep_their_labels(augmentation: str):
    labels = torch.arange(250) % 10
    levels = (labels * 20 + 20).to(torch.uint8)[:, None, None, None]
    bright = Images(levels.expand(-1, SIDE, SIDE, 1).contiguous(), labels, SAMPLE.spec)
    for pixels, expected in batches(bright, RunConfig(batch_size=50, augmentation=augmentation), seeded(0)):
        assert torch.equal(pixels.amax((1, 2, 3)).long() // 20 - 1, expected)


def test_the_input_is_standardised_with_the_training_sets_mean_and_deviation(sample: Data):
    pixels = sample.train.pixels.clone()
    images = to_input(pixels, sample.spec)
    assert images.shape == (6_000, 1, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert torch.allclose(images[:9, 0], (pixels[:9, ..., 0].double() / 255 - MEAN).div(STD).float(), atol=1e-6)
    assert abs(images.mean()) < 0.02  # the sample's own mean and deviation are close to those of the 60,000
    assert abs(images.std() - 1) < 0.02
    assert torch.equal(pixels, sample.train.pixels)
