"""The plain convolutional networks: three sizes.

    size    convolutions (3x3)              head   parameters (placement none, images of 28 x 28)
    small   8, 16                           32     26,698
    medium  32, 64, 128                     128    241,546
    large   64, 64, 128, 128, 256, 256      256    1,736,906

Each stage of convolutions ends in a 2x2 max-pool, as long as the images are large enough.
"""

from __future__ import annotations

from typing import Final

from torch import nn

from sweeper.core.images import ImageSpec
from sweeper.core.networks import HEAD, STAGES
from sweeper.training.networks.layers import Layers

SMALLEST: Final = 3  # side of an image that a pooling may leave
LARGEST: Final = 7  # of the images that the head takes


def cnn(size: str, images: ImageSpec, layers: Layers) -> nn.Sequential:
    """Return the network: float `(B, C, H, W)` to logits `(B, classes)`."""
    parts: list[nn.Module] = []
    height, width, channels = images.shape
    for stage in STAGES[size]:
        halved = min(height, width) >= 2 * SMALLEST
        for position, wide in enumerate(stage):
            parts += layers.conv(channels, wide, pool=halved and position == len(stage) - 1)
            channels = wide
        height, width = (height // 2, width // 2) if halved else (height, width)
    while min(height, width) > LARGEST:
        parts.append(nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    parts.append(nn.Flatten())
    parts += layers.linear(channels * height * width, HEAD[size])
    parts += layers.head(HEAD[size], len(images.classes))
    return nn.Sequential(*parts)
