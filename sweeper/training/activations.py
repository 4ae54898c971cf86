"""The memory that a training batch needs for its activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.networks.build import build_model


def activation_bytes(config: RunConfig, images: ImageSpec) -> int:
    """Return the bytes of activations that one training batch keeps for its backward pass, in fp32.

    Shared activations count once; weights do not count. Counted on the CPU, where torch may keep more or less than on a
    GPU.
    """
    height, width, channels = images.shape
    model = build_model(config, images).to(memory_format=torch.channels_last).train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    x = torch.randn(config.batch_size, channels, height, width).to(memory_format=torch.channels_last)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(x), torch.zeros(config.batch_size, dtype=torch.long))
    del loss  # until here it keeps all of them, so that no address is used twice
    return sum(kept.values())
