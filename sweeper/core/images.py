"""Arrays of images and their constants: size, classes, mean and standard deviation."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

MEAN: Final = 0.28604  # of the 60,000 training images, pixels in [0, 1]
STD: Final = 0.35302
SIDE: Final = 28
CLASSES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
Array = np.ndarray[Any, np.dtype[Any]]
