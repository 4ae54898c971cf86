"""The misclassified images with the highest confidence. Importing this does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.core.results import Mistake

if TYPE_CHECKING:
    from torch import Tensor

    from sweeper.training.images import Images


def confident_mistakes(logits: Tensor, images: Images, most: int) -> list[Mistake]:
    """Return at most `most` errors in `logits` `(N, classes)` for `images`, both on the CPU, most confident first."""
    classes = images.spec.classes
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != images.labels).nonzero().flatten()
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most].tolist()
    return [
        Mistake(
            pixels=images.pixels[i].numpy(),
            truth=classes[images.labels[i]],
            predicted=classes[predicted[i]],
            confidence=confidence[i].item(),
        )
        for i in surest
    ]
