"""The front door to training: engines, the champion and replays all enter here.

    start       train, then take the X-ray of the result
    training    train only: on one split, or on all folds in step

On a GPU, a network that the captured step supports is trained by it. Everything else is trained by the plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sweeper.core.config import MODELS, RunConfig
from sweeper.core.images import ImageSpec
from sweeper.core.results import Training, TrainResult
from sweeper.training.failures import explain
from sweeper.training.folds import cross_validate
from sweeper.training.gpu.captured import Cooperative, cooperative, train_captured
from sweeper.training.gpu.layers import SHAPE as CAPTURED_SHAPE
from sweeper.training.gpu.layers import supports
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from sweeper.training.xray.examine import examine


def start(config: RunConfig, data: Sequence[Data]) -> Training:
    """Train `config` on `data`, its splits, and add the X-ray to the result.

    Raises:
        Diverged: as `loop.train`.
    """
    result = yield from training(config, data)
    return examined(config, result, data[0])


def training(config: RunConfig, data: Sequence[Data]) -> Training:
    """Train `config` on its one split, or on all of its folds, without an X-ray.

    Raises:
        Diverged: as `loop.train`.
    """
    train_one = train_captured if is_captured(config, data[0].spec) else train
    if config.split == "folds":
        return cross_validate(config, data, train_one)
    return train_one(config, data[0])


def in_turn(config: RunConfig, data: Sequence[Data], beside: Callable[[], int]) -> Cooperative:
    """Train as `training` does, taking turns with other runs on one GPU; `beside` returns their number.

    Cross-validation, and a network that the captured step does not support, keep the GPU until an epoch ends.
    """
    if config.split == "folds" or not has_captured_step(config, data[0].spec):
        return training(config, data)
    return cooperative(config, data[0], beside)


def is_captured(config: RunConfig, images: ImageSpec) -> bool:
    """Return True if the captured step trains `config` on `images`: on a GPU, if it supports both."""
    return torch.device(config.device).type != "cpu" and has_captured_step(config, images)


def has_captured_step(config: RunConfig, images: ImageSpec) -> bool:
    """Return True if the captured step supports `config` and `images`: one of our networks, Dropout in all epochs."""
    if images.shape != CAPTURED_SHAPE or config.model not in MODELS or config.dropout_schedule != "constant":
        return False
    with torch.device("meta"):  # for the layers alone: no memory, no random numbers
        return supports(build_model(config, images))


def examined(config: RunConfig, result: TrainResult, data: Data) -> TrainResult:
    """Return `result` with the X-ray, or the reason in `xray_failure` if that failed; cross-validation has neither."""
    if config.split == "folds":
        return result
    try:
        return replace(result, xray=examine(config, result, data))
    except Exception as error:  # noqa: BLE001 - no error is worth the loss of the trained epochs
        return replace(result, xray_failure=str(explain(error)))
