"""The splits of a data set that a run may see. Only `load_test` and `split="test"` read the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError
from sweeper.core.images import Array, ImageSpec
from sweeper.data.images import ImageSource, Labelled
from sweeper.data.own import check_room

SPLIT_SEED: Final = 20190826  # the same held-out images and folds for every run


@dataclass(frozen=True)
class Split:
    """The training images and the validation images of a run, and the description of their data set."""

    train: Labelled
    val: Labelled
    spec: ImageSpec

    def arrays(self) -> list[Array]:
        """Return the four arrays, in the order of `from_arrays`."""
        return [self.train.pixels, self.train.labels, self.val.pixels, self.val.labels]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array], spec: ImageSpec) -> Split:
        """Make a split of four arrays."""
        return cls(Labelled(*arrays[:2]), Labelled(*arrays[2:]), spec)


def load(config: RunConfig, source: ImageSource) -> list[Split]:
    """Return the splits of a run: one, or one a fold. With `split="test"`, the test images are the validation images.

    Raises:
        ConfigError: the batch size, or `config.train_images`, is larger than the training set.
        DataError: the images cannot be read, have changed, or do not fit into memory.
    """
    train, spec = source.read("train"), source.spec
    check_room(config.dataset, 2 * max(1, config.folds) * train.pixels.nbytes)  # as split, and shared with workers
    if config.split == "test":
        parts = [(train, source.read("test"))]
    elif config.split == "holdout":
        parts = [holdout(train, spec.holdout)]
    else:
        parts = [fold(train, k, config.folds) for k in range(config.folds)]
    return [check_batch(config, _limited(config, Split(*part, spec))) for part in parts]


def load_test(source: ImageSource) -> Split:
    """Return all training images, and the test images as `val`, for the single evaluation at the end of a sweep."""
    return Split(source.read("train"), source.read("test"), source.spec)


def holdout(images: Labelled, size: int) -> tuple[Labelled, Labelled]:
    """Return the remaining and the held-out images, `size` of them: stratified by class, the same for every call."""
    order = _stratified_order(images.labels)
    return images[np.sort(order[size:])], images[np.sort(order[:size])]


def fold(images: Labelled, k: int, folds: int) -> tuple[Labelled, Labelled]:
    """Return the training and validation images of fold `k` (from 0) of `folds`, stratified by class."""
    order = _stratified_order(images.labels)
    part = _rank_in_class(images.labels[order]) % folds == k
    return images[np.sort(order[~part])], images[np.sort(order[part])]


def subset(images: Labelled, size: int) -> Labelled:
    """Return `size` images, stratified by class, the same for every call. Larger subsets contain the smaller ones."""
    order = _stratified_order(images.labels)
    return images[np.sort(order[:size])]


def _limited(config: RunConfig, split: Split) -> Split:
    if not config.train_images:
        return split
    if config.train_images > len(split.train):
        raise ConfigError(
            f"train_images={config.train_images}: split={config.split} of {config.dataset} leaves only "
            f"{len(split.train)} training images. Use fewer, or 0 for all."
        )
    return replace(split, train=subset(split.train, config.train_images))


def _stratified_order(labels: Array) -> Array:
    """Return a fixed shuffle in which any consecutive images are stratified by class.

    One image of each class comes first, even of a rare class.
    """
    shuffled = shuffle(len(labels), SPLIT_SEED)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    of_class = labels[by_class]
    rank = _rank_in_class(of_class)
    quantile = (rank + 0.5) / np.bincount(of_class)[of_class]
    return by_class[np.lexsort((quantile, rank > 0))]  # stable; the last key is the first


def shuffle(size: int, seed: int) -> Array:
    """Return the numbers below `size` in the order of `torch.randperm` on a CPU, by a generator seeded with `seed`.

    This is the Fisher-Yates shuffle. Each step is the remainder of 32 bits from the Mersenne Twister.
    """
    drawn = np.random.RandomState(seed).randint(0, 2**32, max(size - 1, 0), dtype=np.uint32)
    steps = (drawn % np.arange(size, 1, -1, dtype=np.uint32)).tolist()
    order = list(range(size))
    for place, step in enumerate(steps):
        order[place], order[place + step] = order[place + step], order[place]
    return np.array(order, np.int64)


def _rank_in_class(labels: Array) -> Array:
    """Return the number of images of its class before each image."""
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
