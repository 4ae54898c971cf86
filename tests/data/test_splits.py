from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.core.errors import ConfigError
from sweeper.data import fashion
from sweeper.data.fashion import SAMPLE, SIDE, read_idx
from sweeper.data.images import Labelled
from sweeper.data.splits import SPLIT_SEED, Split, fold, holdout, load, load_test, shuffle, subset
from tests.support.little import SMALL, at, refusal

pytest_plugins = ["tests.support.little"]

SPLITS = pytest.mark.parametrize(
    "split", [{"split": "holdout"}, {"split": "folds", "folds": 4}, {"split": "test"}], ids=str
)


def numbered(images: int) -> Labelled:
    """Images whose first two pixels hold their number, their classes in an irregular order."""
    pixels = np.zeros((images, SIDE, SIDE, 1), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.divmod(np.arange(images), 256)
    return Labelled(pixels, (np.arange(images) % 10)[shuffle(images, 0)])


def numbers(images: Labelled) -> list[int]:
    found: list[int] = (images.pixels[:, 0, 0, 0].astype(int) * 256 + images.pixels[:, 0, 1, 0]).tolist()
    return found


def test_split_test_trains_on_every_training_image_and_judges_on_the_test_images(folder: Path):
    (split,) = load(SMALL.derive(split="test"), at(folder))
    for found, files in ((split.train, fashion.FULL.train), (split.val, fashion.FULL.test)):
        assert np.array_equal(found.pixels, read_idx(folder, files[0])[..., None])
    for one, other in zip(split.arrays(), load_test(at(folder)).arrays(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("split", "splits"), [({"split": "holdout"}, 1), ({"split": "folds", "folds": 3}, 3)])
def test_the_test_images_are_out_of_reach_of_what_selects(folder: Path, split: dict[str, Any], splits: int):
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(b"whoever opens this fails")
    assert [len(d.train) + len(d.val) for d in load(SMALL.derive(**split), at(folder))] == [40] * splits
    refusal(load, SMALL.derive(split="test"), at(folder))
    refusal(load_test, at(folder))


def test_holdout_is_disjoint_complete_and_stratified():
    images = numbered(700)
    split = Split(*holdout(images, 100), SAMPLE.spec)
    assert sorted(numbers(split.train) + numbers(split.val)) == list(range(700))
    assert np.bincount(split.val.labels).tolist() == [10] * 10
    assert np.array_equal(split.train.labels, images.labels[numbers(split.train)])


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 7, 10, 20])
def test_folds_judge_each_image_once_train_on_the_others_and_hold_the_classes_in_equal_shares(folds: int):
    images = numbered(700)
    parts = [Split(*fold(images, k, folds), SAMPLE.spec) for k in range(folds)]
    assert sorted(n for split in parts for n in numbers(split.val)) == list(range(700))
    for split in parts:
        assert sorted(numbers(split.train) + numbers(split.val)) == list(range(700))
        assert np.array_equal(split.val.labels, images.labels[numbers(split.val)])
        per_class = np.bincount(split.val.labels, minlength=10)
        assert 70 // folds <= per_class.min() <= per_class.max() <= 70 // folds + 1


def test_the_splits_never_change():
    images = numbered(700)
    first = holdout(images, 100)[1], fold(images, 1, 3)[1]
    np.random.seed(2)
    second = holdout(images, 100)[1], fold(images, 1, 3)[1]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    assert numbers(first[0])[:8] == [8, 15, 18, 25, 32, 33, 44, 47]  # as in every version before


def test_load_has_one_split_a_fold(folder: Path):
    splits = load(SMALL.derive(split="folds", folds=4), at(folder))
    assert [len(split.val) for split in splits] == [10] * 4


@SPLITS
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("batch_size", "larger than the {images} training images"),
        ("train_images", "split={split} of fashion-mnist leaves only {images}"),
    ],
)
def test_more_images_than_there_are_to_train_on_are_refused(folder: Path, split: dict[str, Any], field: str, said: str):
    images = 40 if split["split"] == "test" else 30
    assert len(load(SMALL.derive(**{field: images}, **split), at(folder))[0].train) == images
    message = refusal(load, SMALL.derive(**{field: images + 1}, **split), at(folder), error=ConfigError)
    assert f"{field}={images + 1}: {said.format(images=images, **split)}" in message


@SPLITS
def test_fewer_images_to_train_on_are_some_of_those_that_the_split_leaves(folder: Path, split: dict[str, Any]):
    whole, fewer = (load(SMALL.derive(train_images=n, **split), at(folder)) for n in (0, 20))
    for all_of_it, part in zip(whole, fewer, strict=True):
        assert np.array_equal(part.val.pixels, all_of_it.val.pixels)
        assert np.bincount(part.train.labels).tolist() == [2] * 10
        known = {image.tobytes() for image in all_of_it.train.pixels}
        assert {image.tobytes() for image in part.train.pixels} < known


def test_a_subset_never_changes_keeps_labels_and_lies_in_a_larger_one():
    images = numbered(700)
    small, large = subset(images, 50), subset(images, 100)
    assert np.bincount(small.labels).tolist() == [5] * 10
    assert np.array_equal(small.labels, images.labels[numbers(small)])
    assert set(numbers(small)) < set(numbers(large))
    assert numbers(small)[:8] == [8, 15, 18, 32, 33, 47, 48, 76]  # for ever


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 624, 625, 7_000, 60_000])
def test_a_shuffle_is_that_of_torch(size: int):
    for seed in (SPLIT_SEED, 0, 2**32 - 1):
        expected = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        assert shuffle(size, seed).tolist() == expected.tolist()


def test_a_rare_class_is_in_training_and_in_validation():
    labels = np.array([0] * 900 + [1] * 95 + [2] * 2 + [3] * 3)[shuffle(1_000, 0)]
    images = Labelled(np.zeros((1_000, 8, 8, 1), np.uint8), labels)
    for part in (holdout(images, 100), holdout(images, 4)):
        assert [set(each.labels.tolist()) for each in part] == [{0, 1, 2, 3}] * 2
    assert set(subset(images, 4).labels.tolist()) == {0, 1, 2, 3}


def test_splits_that_do_not_fit_into_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    source = fashion.find("fashion-mnist", folder)
    monkeypatch.setattr("sweeper.data.own.free_memory", lambda: 40 * 28 * 28 * 2 * 3)
    assert len(load(SMALL.derive(split="folds", folds=3), source)) == 3
    message = refusal(load, SMALL.derive(split="folds", folds=4), source)
    assert message.startswith("fashion-mnist: the images need 0.0 GB of memory, and only 0.0 GB are free.")
