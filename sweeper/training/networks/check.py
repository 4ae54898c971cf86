"""Check a network before anything is created: build it, and run it forward and back on two images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from sweeper.core.config import LAYERED, Placement, RunConfig
from sweeper.core.errors import ConfigError, UsageError
from sweeper.core.images import ImageSpec
from sweeper.core.own_code import explained
from sweeper.training.device import autocast
from sweeper.training.images import to_input
from sweeper.training.networks.build import BATCH_NORM, build, build_model


def fitting(config: RunConfig, images: ImageSpec) -> tuple[Placement, ...]:
    """Return the placements that the network of `config`, whose factory takes `layers`, supports.

    Raises:
        UsageError: there is no such factory.
        SweeperError: it raises an error.
    """
    with _in_one_line(config):
        lacking = {each: build(config.derive(placement=each), images)[1] for each in LAYERED}
    return tuple(placement for placement, what in lacking.items() if not what)


def check_network(config: RunConfig, images: ImageSpec) -> None:
    """Build the network of `config`, and run it on two images in training mode and on one in eval mode, on the CPU.

    Raises:
        ConfigError: it cannot be trained; one line that says why.
        UsageError: there is no such factory.
        SweeperError: the factory or the network raises an error; one line with the line of its file.
    """
    with _in_one_line(config):
        model = build_model(config, images)
        _check_parameters(model, config)
        model.to(memory_format=torch.channels_last)
        pixels = to_input(torch.randint(256, (2, *images.shape), dtype=torch.uint8), images)
        labels = torch.zeros(2, dtype=torch.int64)
        with autocast(config.derive(device="cpu")):
            logits = _checked(model.train()(pixels), images)
        F.cross_entropy(logits.float(), labels).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                raise ConfigError(
                    f"parameter {name} gets no gradient: the logits do not depend on it. Use it, or remove it"
                )
        with torch.inference_mode():
            _checked(model.eval()(pixels[:1]), images, 1)


def _check_parameters(model: nn.Module, config: RunConfig) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"returned {type(model).__name__}, not a torch.nn.Module")
    if not any(True for _ in model.parameters()):
        raise ConfigError("the network has no parameters to train")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(f"parameter {name} is lazy: give its layer the input size")
        if not parameter.requires_grad:
            raise ConfigError(f"parameter {name} is frozen, but every parameter must be trained: set requires_grad")
    if config.batch_size == 1 and any(isinstance(module, BATCH_NORM) for module in model.modules()):
        raise ConfigError("batch_size=1: BatchNorm needs 2 or more images in a batch")


def _checked(logits: object, images: ImageSpec, count: int = 2) -> Tensor:
    """Return the logits of `count` images, if they have the right shape."""
    wanted = (count, len(images.classes))
    if not isinstance(logits, Tensor) or logits.shape != wanted or not logits.is_floating_point():
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"returned {got} for {count} images; it must return logits {wanted}, one per class")
    return logits


@contextmanager
def _in_one_line(config: RunConfig) -> Iterator[None]:
    """Explain any error of the factory or the network in one line, and restore torch's generator."""
    try:
        with torch.random.fork_rng(devices=[]), explained(config.model):
            yield
    except UsageError as error:
        if config.model_name in str(error):
            raise
        raise type(error)(f"{config.model_name}: {error}") from None
