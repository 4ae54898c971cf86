"""Build the network of a configuration."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sweeper.core.config import PLACES, Placement, RunConfig
from sweeper.core.errors import ConfigError, UsageError
from sweeper.core.images import ImageSpec
from sweeper.core.own_code import load_function, source_of
from sweeper.training.networks.cnn import cnn
from sweeper.training.networks.layers import Layers
from sweeper.training.networks.resnet import resnet20

Network = TypeVar("Network", bound=nn.Module)
Factory = Callable[..., nn.Module]

OURS: Final[dict[str, Factory]] = {
    "small": partial(cnn, "small"),
    "medium": partial(cnn, "medium"),
    "large": partial(cnn, "large"),
    "resnet20": resnet20,
}
BATCH_NORM: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def build_model(config: RunConfig, images: ImageSpec) -> nn.Module:
    """Build the network of `config` for `images`: float `(B, C, H, W)` to logits `(B, classes)`.

    Weights are drawn from torch's global generator; seed it first. A factory may raise any error.

    Raises:
        ConfigError: the network lacks layers of its placement, or the factory's file has changed.
        UsageError: there is no such factory.
    """
    network, lacking = build(config, images)
    if lacking:
        raise ConfigError(
            f"placement={config.placement.value} needs {lacking}, but the network of {config.model_name} has none"
        )
    return network


def build(config: RunConfig, images: ImageSpec) -> tuple[nn.Module, str]:
    """Build the network of `config` as `build_model` does, and name the layers of its placement that it lacks."""
    factory, layers = factory_of(config), Layers(config)
    own = not takes_layers(factory)
    if own != (config.placement is Placement.OWN):
        why = "takes no argument `layers`, so its placement is own" if own else "takes `layers`, and so a placement"
        raise ConfigError(f"placement={config.placement.value}: {config.model_name} {why}")
    given = ({} if own else {"layers": layers}) | dict(config.model_args)
    try:
        inspect.signature(factory).bind(images, **given)
    except TypeError as error:
        raise ConfigError(f"arguments of {config.model_name}: {error}") from None
    network = factory(images, **given)
    return network, "" if own or not isinstance(network, nn.Module) else _lacking(config, network, layers)


def factory_of(config: RunConfig) -> Factory:
    """Return the factory of the network of `config`.

    Raises:
        UsageError: its file is missing, or has changed.
    """
    if config.model in OURS:
        return OURS[config.model]
    try:
        source = source_of(config.model)
    except UsageError as error:
        raise UsageError(f"{error} Each run logs the file under code/.") from None
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != config.model_sha256:
        raise ConfigError(
            f"{source} has changed since the run was recorded: its SHA-256 was {config.model_sha256[:12]}…, now "
            f"{digest[:12]}…. Restore the file, which each run logs as code/{source.name}."
        )
    return _load(config.model, digest)


@cache
def _load(name: str, _digest: str) -> Factory:
    return load_function(name)


def takes_layers(factory: Factory) -> bool:
    """Return True if the factory has an argument `layers`, so that its network can have any placement."""
    return "layers" in inspect.signature(factory).parameters


def _lacking(config: RunConfig, network: nn.Module, layers: Layers) -> str:
    """Return the name of the first layer of the placement that the network lacks, or an empty string."""
    placement, modules = config.network_placement, set(network.modules())
    if placement.has_batch_norm and not any(isinstance(module, BATCH_NORM) for module in modules):
        return "BatchNorm"
    places = PLACES | ({"conv_dropout": "residual blocks"} if placement.is_residual else {})
    places |= {"head_dropout": "head, before global average pooling"} if placement.drops_before_pooling else {}
    for rate, place in places.items():
        if placement.uses(rate) and modules.isdisjoint(layers.dropout[rate]):
            return f"Dropout in its {place}"
    return ""


def load_weights(model: Network, weights: Mapping[str, Any]) -> Network:
    """Load copies of `weights`, arrays or tensors by their names, into `model` and return it."""
    tensors = {
        name: value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value).copy())
        for name, value in weights.items()
    }
    model.load_state_dict(tensors)
    return model


def parameter_count(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in model.parameters())
