"""The best configuration of a sweep, trained on all training images and evaluated once on the test images.

What it comes to is a value; torch is imported where it is called, which need not be the driver's process.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.numpy

from sweeper.core.config import RunConfig
from sweeper.core.results import MOST_ERRORS, EpochResult, Evaluation, Mistake
from sweeper.data.splits import Labelled, Split
from sweeper.tracking.export import save_model
from sweeper.training.mistakes import confident_mistakes


@dataclass(frozen=True)
class Champion:
    """The file of the weights and their hash; the verdict on the test images, and the errors it is surest of."""

    weights: bytes
    weights_sha256: str
    verdict: Evaluation
    mistakes: list[Mistake]


def watched(everything: Split) -> Split:
    """All training images, judged on the first of themselves."""
    return Split(everything.train, everything.train[: len(everything.val)])


def retrain(config: RunConfig, splits: Sequence[Split], threads: int) -> Generator[EpochResult, None, Champion]:
    """Train `config` on the training images of the one split; its test images are for after the last epoch.

    Yields:
        One `EpochResult` an epoch, whose `val` values are of training images.

    Raises:
        Diverged: as `train.train`.
    """
    from sweeper.training.device import use_threads
    from sweeper.training.evaluate import predict_weights, score
    from sweeper.training.images import Data
    from sweeper.training.start import training

    (everything,) = splits
    use_threads(threads)
    result = yield from training(config, [Data.from_arrays(watched(everything))])
    test = Data.from_arrays(everything).val
    _, logits = predict_weights(config, result.weights, test)
    return Champion(
        result.weights_file(),
        result.weights_sha256,
        score(logits, test.labels),
        confident_mistakes(logits, test, MOST_ERRORS),
    )


def export(config: RunConfig, weights: bytes, example: Labelled, path: str, described: Any) -> Any:
    """Save the network of `config` with `weights`, a file of safetensors, as an MLflow model in the folder `path`.

    `example` has at least two images. `described` is MLflow's description of the model; it is returned completed.
    """
    from sweeper.training.evaluate import predict_weights
    from sweeper.training.images import Data, normalize

    images = Data.from_arrays(Split(example, example)).train
    network, _ = predict_weights(config, safetensors.numpy.load(weights), images)
    return save_model(network, normalize(images.pixels).numpy(), path, described)
