"""The networks: three sizes, seven placements of Batch Normalization and Dropout.

    size    convolutions (3x3)              head   parameters (placement none)
    small   8, 16                           32     26,698
    medium  32, 64, 128                     128    241,546
    large   64, 64, 128, 128, 256, 256      256    1,736,906

Each stage of convolutions ends in a 2x2 max-pool, before the ReLU: both orders give the same values, and the ReLU then
touches a quarter of them. Dropout2d follows the pool for the same reason: it zeroes and scales whole channels, which a
max-pool of non-negative values leaves unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from sweeper.core.config import Placement, RunConfig
from sweeper.core.images import ImageSpec
from sweeper.core.networks import HEAD, STAGES
from sweeper.training.norm import batch_norm_2d

SMALLEST: Final = 3  # side of an image that a pooling may leave
LARGEST: Final = 7  # of the images that the head takes


def build_model(config: RunConfig, images: ImageSpec) -> nn.Sequential:
    """Build the network of `config` for `images`: float `(B, C, H, W)` to logits `(B, classes)`.

    Weights are drawn from torch's global generator; seed it first.
    """
    layers: list[nn.Module] = []
    height, width, channels = images.shape
    for stage in STAGES[config.model]:
        halved = min(height, width) >= 2 * SMALLEST
        for position, wide in enumerate(stage):
            pool = halved and position == len(stage) - 1
            layers += _conv_layer(config, channels, wide, first=not layers, pool=pool)
            channels = wide
        height, width = (height // 2, width // 2) if halved else (height, width)
    while min(height, width) > LARGEST:
        layers.append(nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    layers.append(nn.Flatten())
    layers += _head(config, channels * height * width, len(images.classes))
    return nn.Sequential(*layers)


def _conv_layer(config: RunConfig, channels: int, width: int, *, first: bool, pool: bool) -> Iterator[nn.Module]:
    """Yield one convolution and the layers that the placement puts around it.

    With `ic`, BatchNorm and Dropout precede each convolution but the first: its input is the image, standardised
    already, and dropping its one channel would drop the whole image.
    """
    placement, rate = config.network_placement, config.conv_dropout
    if placement is Placement.IC and not first:
        yield batch_norm_2d(channels)
        yield nn.Dropout2d(rate)
    norm_after = placement.has_batch_norm and placement is not Placement.IC
    norm_follows = norm_after and placement is not Placement.DROPOUT_BN
    yield nn.Conv2d(channels, width, 3, padding=1, bias=not norm_follows)  # BN would cancel a bias
    if placement is Placement.DROPOUT_BN:
        yield nn.Dropout2d(rate)
    if norm_after:
        yield batch_norm_2d(width)
    if pool:
        yield nn.MaxPool2d(2)
    yield nn.ReLU(inplace=True)
    if placement in (Placement.DROPOUT, Placement.BN_DROPOUT):
        yield nn.Dropout2d(rate)


def _head(config: RunConfig, features: int, classes: int) -> Iterator[nn.Module]:
    width, rate, placement = HEAD[config.model], config.head_dropout, config.network_placement
    if placement is Placement.IC:
        yield from (nn.BatchNorm1d(features), nn.Dropout(rate))
    yield from (nn.Linear(features, width), nn.ReLU(inplace=True))
    if placement is Placement.IC:
        yield nn.BatchNorm1d(width)
    if placement.has_head_dropout:
        yield nn.Dropout(rate)
    yield nn.Linear(width, classes)


def load_weights(model: nn.Sequential, weights: Mapping[str, Any]) -> nn.Sequential:
    """Load copies of `weights`, arrays or tensors by their names, into `model` and return it."""
    model.load_state_dict({name: torch.from_numpy(np.asarray(value).copy()) for name, value in weights.items()})
    return model


def parameter_count(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in model.parameters())
