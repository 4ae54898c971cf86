"""The splits of a data set that a run may see. Only `load_test` and `split="test"` read the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError, DataError
from sweeper.core.images import CLASSES, Array
from sweeper.data.fashion import MANIFESTS, IdxFile, read_idx

SPLIT_SEED: Final = 20190826  # the same held-out images and folds for every run


@dataclass(frozen=True)
class Labelled:
    """Labelled images: `pixels` uint8 `(N, 28, 28)`, `labels` int64 `(N,)`."""

    pixels: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Array | slice) -> Labelled:
        return Labelled(self.pixels[index], self.labels[index])


@dataclass(frozen=True)
class Split:
    """The images that a run trains on, and those that judge each epoch."""

    train: Labelled
    val: Labelled

    def arrays(self) -> list[Array]:
        """Return the four arrays, in the order of `from_arrays`."""
        return [self.train.pixels, self.train.labels, self.val.pixels, self.val.labels]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array]) -> Split:
        """Make a split of four arrays."""
        return cls(Labelled(*arrays[:2]), Labelled(*arrays[2:]))


def load(config: RunConfig, folder: Path) -> list[Split]:
    """Return the splits of a run: one, or one a fold. With `split="test"` the test images serve as validation.

    Raises:
        ConfigError: the batch size, or `config.train_images`, is larger than the training set.
        DataError: the files cannot be read, or are other ones.
    """
    manifest = MANIFESTS[config.dataset]
    train = _load(manifest.train, folder)
    if config.split == "test":
        parts = [Split(train, _load(manifest.test, folder))]
    elif config.split == "holdout":
        parts = [holdout(train, manifest.holdout)]
    else:
        parts = [fold(train, k, config.folds) for k in range(config.folds)]
    return [check_batch(config, _limited(config, part)) for part in parts]


def load_test(config: RunConfig, folder: Path) -> Split:
    """Return all training images, and the test images as `val`, for the one evaluation that ends a sweep."""
    manifest = MANIFESTS[config.dataset]
    return Split(_load(manifest.train, folder), _load(manifest.test, folder))


def _load(files: tuple[IdxFile, IdxFile], folder: Path) -> Labelled:
    pixels, labels = (read_idx(folder, file) for file in files)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{folder / files[1].name}: label {labels.max()}. The labels must be 0 to 9.")
    return Labelled(pixels, labels.astype(np.int64))


def holdout(images: Labelled, size: int) -> Split:
    """Hold out `size` images, equally many of each class, always the same ones."""
    order = _stratified_order(images.labels)
    return Split(images[np.sort(order[size:])], images[np.sort(order[:size])])


def fold(images: Labelled, k: int, folds: int) -> Split:
    """Return fold `k` (from 0) of `folds`: every image is validated in one fold, classes in equal shares."""
    order = _stratified_order(images.labels)
    part = _rank_in_class(images.labels[order]) % folds == k
    return Split(images[np.sort(order[~part])], images[np.sort(order[part])])


def subset(images: Labelled, size: int) -> Labelled:
    """Return `size` images, classes in equal shares, always the same ones. A smaller subset lies in a larger one."""
    order = _stratified_order(images.labels)
    return images[np.sort(order[:size])]


def _limited(config: RunConfig, split: Split) -> Split:
    if not config.train_images:
        return split
    if config.train_images > len(split.train):
        raise ConfigError(
            f"train_images={config.train_images}: split={config.split} of {config.dataset} leaves {len(split.train)} "
            "to train on. Use fewer, or 0 for all."
        )
    return Split(subset(split.train, config.train_images), split.val)


def _stratified_order(labels: Array) -> Array:
    """Return a fixed shuffle in which consecutive images hold the classes in equal shares."""
    shuffled = shuffle(len(labels), SPLIT_SEED)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return by_class[np.argsort(_rank_in_class(labels[by_class]), kind="stable")]


def shuffle(size: int, seed: int) -> Array:
    """Return the numbers below `size` in the order of `torch.randperm` on a CPU with a generator of `seed`.

    This is the shuffle of Fisher and Yates, each step the remainder of 32 bits of the Mersenne Twister.
    """
    drawn = np.random.RandomState(seed).randint(0, 2**32, max(size - 1, 0), dtype=np.uint32)
    steps = (drawn % np.arange(size, 1, -1, dtype=np.uint32)).tolist()
    order = list(range(size))
    for place, step in enumerate(steps):
        order[place], order[place + step] = order[place + step], order[place]
    return np.array(order, np.int64)


def _rank_in_class(labels: Array) -> Array:
    """Count, for each image, those of its class before it."""
    rank = np.empty_like(labels)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    return rank


def check_batch(config: RunConfig, split: Split) -> Split:
    """Return `split`, or raise a ConfigError if the batch size is larger than its training set."""
    if config.batch_size > len(split.train):
        raise ConfigError(
            f"batch_size={config.batch_size}: larger than the {len(split.train)} training images of {config.dataset}. "
            "Use a smaller one."
        )
    return split
