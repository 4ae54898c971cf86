"""Files with networks of a user's own, good and bad."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

# A plain network that takes its layers from the builder, and so has the seven plain placements.
PLAIN: Final = """
from torch import nn


def build(images, layers, width=8, depth=2):
    height, _, channels = images.shape
    parts = []
    for _ in range(depth):
        parts += layers.conv(channels, width, pool=True)
        channels = width
    features = width * (height // 2**depth) ** 2
    return nn.Sequential(*parts, nn.Flatten(), *layers.linear(features, 16), *layers.head(16, len(images.classes)))
"""
# A residual network of a class of its own, with a forward pass of its own.
RESIDUAL: Final = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, images, layers, width=4):
        super().__init__()
        self.stem = layers.stem(images.shape[2], width, stride=2)
        self.block = layers.residual(width, 2 * width, stride=2)
        self.head = layers.head(2 * width, len(images.classes), pool=True)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))
"""
# A network that does not know the builder, with rates of its own.
OWN: Final = """
from torch import nn


def build(images, rate=0.5):
    height, width, channels = images.shape
    return nn.Sequential(nn.Flatten(), nn.Linear(height * width * channels, 16), nn.BatchNorm1d(16), nn.ReLU(),
                         nn.Dropout(rate), nn.Linear(16, len(images.classes)))
"""
# One whose forward pass branches on values: it cannot be traced into a graph.
BRANCHING: Final = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, images):
        super().__init__()
        self.one, self.two = nn.Linear(784, 10), nn.Linear(784, 10)

    def forward(self, x):
        x = x.flatten(1)
        first, second = self.one(x), self.two(x)
        return first + second if float(x.mean()) > 0 else second + first
"""
TORCHVISION: Final = """
from torchvision.models import resnet18


def build(images):
    network = resnet18(num_classes=len(images.classes))
    network.conv1 = type(network.conv1)(images.shape[2], 64, 3, padding=1, bias=False)
    return network
"""


def write(folder: Path, text: str, name: str = "net.py") -> str:
    """Write a file, and return its path."""
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return str(file)
