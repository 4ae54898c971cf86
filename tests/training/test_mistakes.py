from __future__ import annotations

import torch

from sweeper.data.fashion import CLASSES, SAMPLE
from sweeper.training.images import Images
from sweeper.training.mistakes import confident_mistakes


def images(labels: list[int]) -> Images:
    pixels = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 28, 28, 1)
    return Images(pixels.clone(), torch.tensor(labels), SAMPLE.spec)


def test_the_surest_errors_come_first() -> None:
    logits = torch.zeros(4, 10)
    logits[0, 1], logits[1, 1], logits[2, 2], logits[3, 5] = 1.0, 9.0, 3.0, 9.0
    found = confident_mistakes(logits, images([0, 1, 0, 0]), 2)
    assert [(m.truth, m.predicted) for m in found] == [(CLASSES[0], CLASSES[5]), (CLASSES[0], CLASSES[2])]
    assert found[0].pixels.shape == (28, 28, 1)
    assert int(found[0].pixels.max()) == 3  # the fourth image
    assert found[1].confidence == torch.softmax(logits[2], 0).max().item()


def test_a_model_without_errors_has_none() -> None:
    assert confident_mistakes(torch.eye(10), images(list(range(10))), 5) == []
