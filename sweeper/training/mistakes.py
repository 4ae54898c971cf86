"""The wrongly classified images that a model is surest of. Importing this does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.core.images import CLASSES
from sweeper.core.results import Mistake

if TYPE_CHECKING:
    from torch import Tensor

    from sweeper.training.images import Images


def confident_mistakes(logits: Tensor, images: Images, most: int) -> list[Mistake]:
    """Return at most `most` errors in `logits` `(N, 10)` for `images`, both on the CPU, the surest first."""
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != images.labels).nonzero().flatten()
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most].tolist()
    return [
        Mistake(
            pixels=images.pixels[i].reshape(images.pixels.shape[-2:]).numpy(),
            truth=CLASSES[images.labels[i]],
            predicted=CLASSES[predicted[i]],
            confidence=confidence[i].item(),
        )
        for i in surest
    ]
