"""The sizes of the networks, and the cost of a forward pass."""

from __future__ import annotations

from typing import Final

from sweeper.core.images import CLASSES, SIDE

STAGES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "small": ((8,), (16,)),
    "medium": ((32,), (64,), (128,)),
    "large": ((64, 64), (128, 128), (256, 256)),
}
HEAD: Final = {"small": 32, "medium": 128, "large": 256}


def multiply_adds(size: str) -> int:
    """Return the multiply-adds of a forward pass for one image, of the convolutions and the head."""
    total, channels, side = 0, 1, SIDE
    for stage in STAGES[size]:
        for width in stage:
            total += side * side * 9 * channels * width
            channels = width
        side //= 2
    return total + HEAD[size] * (channels * side * side + len(CLASSES))
