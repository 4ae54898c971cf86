"""How much the masks of Dropout move the output of a network."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from sweeper.training.dropout import dropout_layers
from sweeper.training.xray.passes import Subject, unchanged

MASKS: Final = 8  # for each image; an eighth of the batches then costs as much as one pass


@torch.no_grad()
def mask_variance(subject: Subject) -> float:
    """Return the variance of a logit over Dropout masks, unbiased, mean over logits and images; NaN without Dropout.

    Only Dropout is in training mode, so that BatchNorm normalises by its running statistics: what is left of the
    randomness of training is that of the masks.
    """
    layers = [layer for layer, rate in dropout_layers(subject.model).items() if rate > 0]
    if not layers:
        return math.nan
    batches = subject.batches[: math.ceil(len(subject.batches) / MASKS)]
    with unchanged(subject.model):
        subject.model.eval()
        for layer in layers:
            layer.train()
        spread = [_variance([subject.forward(batch) for _ in range(MASKS)]) for batch in batches]
    return torch.stack(spread).mean().item()


def _variance(logits: list[Tensor]) -> Tensor:
    """The mean variance over several outputs for one batch, `(B, classes)` each."""
    return torch.stack(logits).float().var(0).mean()
