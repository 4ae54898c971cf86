"""Networks for the X-ray of any network, and batches of images for them. A plugin of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS: Final = 120  # of momentum 0.1: what is left of the 1 that m starts from is nothing


@pytest.fixture
def seeded() -> Iterator[None]:
    """Torch's generator at the same seed in each test."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        yield


def images(count: int = 32, channels: int = 3, side: int = 8) -> Tensor:
    """Images whose mean and variance differ from 0 and 1."""
    return 0.7 * torch.randn(count, channels, side, side) + 0.5 * torch.randn(count, channels, 1, 1) + 0.8


def settled(model: nn.Module, draw: Callable[[], Any] = images, steps: int = STEPS) -> nn.Module:
    """Let the running statistics become those of training on batches of `draw`. Nothing is trained."""
    model.train()
    with torch.no_grad():
        for _ in range(steps):
            model(draw())
    return model


class Block(nn.Module):
    """A residual block, with its layers in another order than they are called, and Dropout right before BN."""

    def __init__(self, dropout: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.last = nn.BatchNorm2d(8)
        self.dropout = dropout
        self.first = nn.BatchNorm2d(channels)
        self.widen, self.narrow = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(self.widen(F.relu(self.first(x))))
        return x + self.narrow(F.relu(self.last(inner)))


class Between(nn.Module):
    """Dropout, then a function, then BN."""

    def __init__(self, function: Callable[[Tensor], Tensor], dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.dropout = dropout or nn.Dropout2d(0.3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.function(self.dropout(x)))
