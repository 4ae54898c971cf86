"""Generators for all randomness of an epoch, seeded from the run's seed and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from sweeper.core.config import RunConfig


@contextmanager
def seeded(config: RunConfig, epoch: int) -> Iterator[torch.Generator]:
    """Seed torch from (seed, epoch), yield the epoch's order generator, and restore torch's state after the block."""
    with forked(int.from_bytes(_digest(config, epoch)[:7]), [torch.device(config.device)]):
        yield order_generator(config, epoch)


@contextmanager
def forked(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Seed torch on the CPU and on the GPUs among `devices`, and restore its state after the block."""
    gpus = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def order_generator(config: RunConfig, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's order and augmentation, on the CPU."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(config, epoch)[7:14]))


def mask_generator(config: RunConfig, epoch: int, device: torch.device) -> torch.Generator:
    """Return a generator seeded as torch's own is within `seeded`, for the masks of Dropout."""
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(config, epoch)[:7]))


def _digest(config: RunConfig, epoch: int) -> bytes:
    return hashlib.sha256(f"{config.seed}/{epoch}".encode()).digest()
