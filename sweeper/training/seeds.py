"""All randomness of an epoch, drawn from the seed and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult as EpochResult
from sweeper.core.results import Evaluation as Evaluation
from sweeper.core.results import Training as Training
from sweeper.core.results import TrainResult as TrainResult


@contextmanager
def seeded(config: RunConfig, epoch: int) -> Iterator[torch.Generator]:
    """Seed torch from (seed, epoch) for the block, yield a CPU generator of its own, restore afterwards."""
    digest = _digest(config, epoch)
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(int.from_bytes(digest[:7]))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int.from_bytes(digest[:7]))
        yield order_generator(config, epoch)


def order_generator(config: RunConfig, epoch: int) -> torch.Generator:
    """The generator that an epoch's order and augmentation are drawn from, on the CPU."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(config, epoch)[7:14]))


def mask_generator(config: RunConfig, epoch: int, device: torch.device) -> torch.Generator:
    """A generator that gives what torch's own gives to Dropout within `seeded`."""
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(config, epoch)[:7]))


def _digest(config: RunConfig, epoch: int) -> bytes:
    return hashlib.sha256(f"{config.seed}/{epoch}".encode()).digest()
