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


def multiply_adds(size: str, images: ImageSpec) -> int:
    """Return the multiply-adds of a forward pass for one of `images` of 28 x 28, in convolutions and head."""
    height, width, channels = images.shape
    total = 0
    for stage in STAGES[size]:
        for wide in stage:
            total += height * width * 9 * channels * wide
            channels = wide
        height, width = height // 2, width // 2
    return total + HEAD[size] * (channels * height * width + len(images.classes))
