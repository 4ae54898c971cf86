"""A trained network in the form in which MLflow serves it: uint8 images in, logits out, of torch's own modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.ops import Permute
from torchvision.transforms import v2

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.network import build_model, load_weights
from sweeper.training.norm import NarrowBatchNorm2d


def served(config: RunConfig, images: ImageSpec, weights: Mapping[str, Any]) -> nn.Sequential:
    """Return the network of `config` with `weights`, pixels from 0 to 255 to logits `(N, classes)`.

    It takes uint8 `(N, H, W)` of grey images and `(N, H, W, 3)` of colour ones.

    It can be loaded where `sweeper` is not installed. `classes` are the names of the logits, and `precision` the
    arithmetic in which it was evaluated.
    """
    trained = load_weights(build_model(config, images), weights)
    height, _, channels = images.shape
    channels_first = nn.Unflatten(1, (1, height)) if channels == 1 else Permute([0, 3, 1, 2])
    standardise = v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(images.mean), list(images.std))
    network = nn.Sequential(channels_first, *standardise, *map(_of_torch, trained))
    vars(network).update(classes=images.classes, precision=config.precision)  # kept with it
    return network.eval()


def _of_torch(layer: nn.Module) -> nn.Module:
    """Torch's own layer in place of ours, with the same weights."""
    if not isinstance(layer, NarrowBatchNorm2d):
        return layer
    plain = nn.BatchNorm2d(layer.num_features)
    plain.load_state_dict(layer.state_dict())
    return plain
