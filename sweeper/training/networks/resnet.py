"""ResNet-20 for small images: three stages of three residual blocks, 16, 32 and 64 channels, 0.27 M parameters.

The depth and widths are those of He et al. 2016 (arXiv 1512.03385) for CIFAR. The blocks are those of their second
article (arXiv 1603.05027), with BatchNorm and ReLU before each convolution. Only these have a place after the last
BatchNorm of a branch and before its last convolution, where Kim et al. 2023 (PMLR 216) put Dropout.
"""

from __future__ import annotations

from typing import Final

from torch import nn

from sweeper.core.images import ImageSpec
from sweeper.training.networks.layers import Layers

WIDTHS: Final = (16, 32, 64)
BLOCKS: Final = 3  # a stage
LARGEST: Final = 64  # side of the images that the first convolution takes


def resnet20(images: ImageSpec, layers: Layers) -> nn.Sequential:
    """Return the network: float `(B, C, H, W)` to logits `(B, classes)`. Larger images are averaged down at first."""
    height, width, channels = images.shape
    parts: list[nn.Module] = []
    while min(height, width) > LARGEST:
        parts.append(nn.AvgPool2d(2))
        height, width = height // 2, width // 2
    parts += layers.stem(channels, WIDTHS[0])
    channels = WIDTHS[0]
    for wide in WIDTHS:
        for block in range(BLOCKS):
            parts += layers.residual(channels, wide, stride=2 if block == 0 and wide > WIDTHS[0] else 1)
            channels = wide
    return nn.Sequential(*parts, *layers.head(channels, len(images.classes), pool=True))
