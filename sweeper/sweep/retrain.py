"""Train a configuration on all training images, and evaluate it once on the test images.

The result is a value. torch is imported where `retrain` is called, which need not be the driver's process.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.numpy

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.core.results import MOST_ERRORS, EpochResult, Evaluation, Mistake
from sweeper.data.images import Labelled
from sweeper.data.splits import Split
from sweeper.tracking.export import save_model
from sweeper.training.mistakes import confident_mistakes


@dataclass(frozen=True)
class Champion:
    """The file of the weights, their hash, the evaluation on the test images, and the most confident errors."""

    weights: bytes
    weights_sha256: str
    verdict: Evaluation
    mistakes: list[Mistake]


def train_all(everything: Split) -> Split:
    """Return a split of all training images whose validation images are the first of them."""
    return replace(everything, val=everything.train[: len(everything.val)])


def retrain(config: RunConfig, splits: Sequence[Split], threads: int) -> Generator[EpochResult, None, Champion]:
    """Train `config` on the training images of the one split, and evaluate it on its test images after the last epoch.

    Yields:
        One `EpochResult` per epoch; its `val` values are measured on training images.

    Raises:
        Diverged: the loss is not finite, or ran away.
    """
    from sweeper.training.device import use_threads
    from sweeper.training.evaluate import predict_weights, score
    from sweeper.training.images import Data
    from sweeper.training.start import training

    (everything,) = splits
    use_threads(threads)
    result = yield from training(config, [Data.from_arrays(train_all(everything))])
    test = Data.from_arrays(everything).val
    _, logits = predict_weights(config, result.weights, test)
    return Champion(
        result.weights_file(),
        result.weights_sha256,
        score(logits, test.labels, test.spec.classes),
        confident_mistakes(logits, test, MOST_ERRORS),
    )


def export(
    config: RunConfig, images: ImageSpec, weights: bytes, example: Labelled, path: str, described: Any
) -> Any:  # fmt: skip
    """Save the network of `config` with `weights`, a file of safetensors, as an MLflow model in the folder `path`.

    `example` are images that MLflow shows. `described` is its description of the model; it is returned completed.
    """
    from sweeper.training import champion_pyfunc
    from sweeper.training.serving import served

    network = served(config, images, safetensors.numpy.load(weights))
    loader, grey = Path(champion_pyfunc.__file__), images.shape[2] == 1
    pixels = example.pixels[..., 0] if grey else example.pixels
    return save_model(network, loader, pixels, images.classes, path, described)
