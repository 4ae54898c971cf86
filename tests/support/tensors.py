"""The weights of a result as tests compute with them."""

from __future__ import annotations

import safetensors.torch
from torch import Tensor

from sweeper.core.results import TrainResult


def tensors(result: TrainResult) -> dict[str, Tensor]:
    """As tensors, of memory of their own."""
    return safetensors.torch.load(result.weights_file())
