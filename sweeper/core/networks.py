"""The sizes of the networks, and the cost of a forward pass."""

from __future__ import annotations

from typing import Final

from sweeper.core.images import ImageSpec

STAGES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "small": ((8,), (16,)),
    "medium": ((32,), (64,), (128,)),
    "large": ((64, 64), (128, 128), (256, 256)),
}
HEAD: Final = {"small": 32, "medium": 128, "large": 256}


RESIDUAL_WIDTHS: Final = (16, 32, 64)  # of resnet20, three blocks of two convolutions a stage


def multiply_adds(model: str, images: ImageSpec) -> int:
    """Return the multiply-adds of a forward pass for one of `images` of 28 x 28, in convolutions and head.

    A network of the user's own is taken for a medium one.
    """
    if model == "resnet20":
        return _residual(images)
    size = model if model in STAGES else "medium"
    height, width, channels = images.shape
    total = 0
    for stage in STAGES[size]:
        for wide in stage:
            total += height * width * 9 * channels * wide
            channels = wide
        height, width = height // 2, width // 2
    return total + HEAD[size] * (channels * height * width + len(images.classes))


def _residual(images: ImageSpec) -> int:
    """The multiply-adds of resnet20; a stage begins with half the pixels, and a 1 x 1 convolution beside the branch."""
    height, width, channels = images.shape
    total = height * width * 9 * channels * RESIDUAL_WIDTHS[0]
    channels = RESIDUAL_WIDTHS[0]
    for wide in RESIDUAL_WIDTHS:
        if wide > channels:
            height, width = -(-height // 2), -(-width // 2)
            total += height * width * channels * wide
        total += height * width * 9 * wide * (channels + 5 * wide)
        channels = wide
    return total + channels * len(images.classes)
