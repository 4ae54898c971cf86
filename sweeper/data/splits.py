"""What a run may see of a data set, as arrays: its splits, and the memory in which processes share them.

The 10,000 test images are read by `load_test` and by `split="test"` alone. Nothing here needs torch.
"""

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

SPLIT_SEED: Final = 20190826  # the held-out images and the folds are the same for every run


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
    """What a run may see: the images it trains on, and those that judge each epoch."""

    train: Labelled
    val: Labelled

    def arrays(self) -> list[Array]:
        """Its four arrays, in the order of `from_arrays`."""
        return [self.train.pixels, self.train.labels, self.val.pixels, self.val.labels]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array]) -> Split:
        """The split of these four."""
        pixels, labels, *judging = arrays
        return cls(Labelled(pixels, labels), Labelled(*judging))


def load(config: RunConfig, folder: Path) -> list[Split]:
    """The splits of a run: one, or one for each fold when `config.split` is folds.

    Only `split="test"` reads the test images, and calls them validation, as the article does.

    Raises:
        ConfigError: a batch, or `config.train_images`, is more than the images there are to train on.
        DataError: the files cannot be read, or are not what they should be.
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
    """All training images, and the test images as `val`: for the one evaluation that ends a sweep."""
    manifest = MANIFESTS[config.dataset]
    return Split(_load(manifest.train, folder), _load(manifest.test, folder))


def _load(files: tuple[IdxFile, IdxFile], folder: Path) -> Labelled:
    pixels, labels = (read_idx(folder, file) for file in files)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{folder / files[1].name}: label {labels.max()}; the labels are 0 to 9")
    return Labelled(pixels, labels.astype(np.int64))


def holdout(images: Labelled, size: int) -> Split:
    """Hold out `size` images, equally many of each class, always the same ones."""
    order = _stratified_order(images.labels)
    return Split(images[np.sort(order[size:])], images[np.sort(order[:size])])


def fold(images: Labelled, k: int, folds: int) -> Split:
    """Fold `k` (from 0) of `folds`: every image is validated in one fold, classes in equal shares."""
    order = _stratified_order(images.labels)
    part = _rank_in_class(images.labels[order]) % folds == k
    return Split(images[np.sort(order[~part])], images[np.sort(order[part])])


def subset(images: Labelled, size: int) -> Labelled:
    """`size` of the images, classes in equal shares, always the same ones; a smaller subset lies in a larger one."""
    order = _stratified_order(images.labels)
    return images[np.sort(order[:size])]


def _limited(config: RunConfig, split: Split) -> Split:
    """`split` with the number of training images that `config` asks for.

    Raises:
        ConfigError: there are not that many.
    """
    if not config.train_images:
        return split
    if config.train_images > len(split.train):
        raise ConfigError(
            f"train_images={config.train_images}: split={config.split} of {config.dataset} leaves {len(split.train)} "
            "to train on; use fewer, or 0 for all"
        )
    return Split(subset(split.train, config.train_images), split.val)


def _stratified_order(labels: Array) -> Array:
    """A fixed shuffle in which any run of consecutive images holds the classes in equal shares."""
    shuffled = shuffle(len(labels), SPLIT_SEED)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return by_class[np.argsort(_rank_in_class(labels[by_class]), kind="stable")]


def shuffle(size: int, seed: int) -> Array:
    """The numbers below `size` in the order of `torch.randperm` on a CPU with a generator of `seed`: Fisher and Yates,
    each place by the remainder of 32 bits of the Mersenne Twister."""
    drawn = np.random.RandomState(seed).randint(0, 2**32, max(size - 1, 0), dtype=np.uint32)
    steps = (drawn % np.arange(size, 1, -1, dtype=np.uint32)).tolist()
    order = list(range(size))
    for place, step in enumerate(steps):
        order[place], order[place + step] = order[place + step], order[place]
    return np.array(order, np.int64)


def _rank_in_class(labels: Array) -> Array:
    """For each image, how many of its class come before it."""
    rank = np.empty_like(labels)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    return rank


def check_batch(config: RunConfig, split: Split) -> Split:
    """Return `split` if a batch fits into it.

    Raises:
        ConfigError: the batch size is larger than the training set.
    """
    if config.batch_size > len(split.train):
        raise ConfigError(
            f"batch_size={config.batch_size}: larger than the {len(split.train)} training images of {config.dataset}"
        )
    return split
