"""Generators for all randomness of an epoch, seeded from the run's seed and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sweeper.core.config import RunConfig


@contextmanager
def seeded(config: RunConfig, epoch: int) -> Iterator[torch.Generator]:
    """Seed torch from (seed, epoch), yield the epoch's order generator, and restore torch's state after the block."""
    digest = _digest(config, epoch)
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(int.from_bytes(digest[:7]))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int.from_bytes(digest[:7]))
        yield order_generator(config, epoch)


def order_generator(config: RunConfig, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's order and augmentation, on the CPU."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(config, epoch)[7:14]))


def mask_generator(config: RunConfig, epoch: int, device: torch.device) -> torch.Generator:
    """Return a generator seeded as torch's own is within `seeded`, for the masks of Dropout."""
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(config, epoch)[:7]))


def _digest(config: RunConfig, epoch: int) -> bytes:
    return hashlib.sha256(f"{config.seed}/{epoch}".encode()).digest()
