"""A trained network in the form in which MLflow serves it: uint8 images in, logits out, of torch's own modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.ops import Permute
from torchvision.transforms import v2

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.networks import build_model, load_weights
from sweeper.training.norm import NarrowBatchNorm2d


def served(config: RunConfig, images: ImageSpec, weights: Mapping[str, Any]) -> nn.Sequential:
    """Return the network of `config` with `weights`, pixels from 0 to 255 to logits `(N, classes)`.

    It takes uint8 `(N, H, W)` of grey images and `(N, H, W, 3)` of colour ones.

    It can be loaded without `sweeper` if torch can trace it. `classes` are the names of the
    logits, and `precision` that of its evaluation. `needs` are the modules, besides torch's, that must
    be importable where it is loaded.
    """
    trained = _of_torch(load_weights(build_model(config, images), weights)).eval()
    height, _, channels = images.shape
    channels_first = nn.Unflatten(1, (1, height)) if channels == 1 else Permute([0, 3, 1, 2])
    standardise = v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(images.mean), list(images.std))
    if foreign(trained):
        trained = _traced(trained, images)
    layers = trained.children() if type(trained) is nn.Sequential else [trained]
    network = nn.Sequential(channels_first, *standardise, *layers)
    needs = tuple(name for name in foreign(trained) if name in sys.modules)  # MLflow pickles others with their code
    vars(network).update(classes=images.classes, precision=config.precision, needs=needs)  # kept with it
    return network.eval()


def foreign(network: nn.Module) -> tuple[str, ...]:
    """Return the modules that define layers of `network`, without those of torch and torchvision."""
    found = {type(layer).__module__ for layer in network.modules() if not isinstance(layer, torch.fx.GraphModule)}
    return tuple(sorted(name for name in found if name.partition(".")[0] not in ("torch", "torchvision")))


def _of_torch(network: nn.Module) -> nn.Module:
    """Put torch's own layers in place of ours, with the same weights."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, NarrowBatchNorm2d):
            plain = nn.BatchNorm2d(layer.num_features)
            plain.load_state_dict(layer.state_dict())
            network.set_submodule(name, plain)
    return network


def _traced(network: nn.Module, images: ImageSpec) -> nn.Module:
    """Return a graph of torch's modules that computes what `network` does, or `network` where torch finds none.

    The graph carries the Python code of its forward pass, so that it can be loaded without the classes of the network.
    """
    height, width, channels = images.shape
    example = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        graph: nn.Module = torch.fx.symbolic_trace(network)
        same = torch.equal(graph(example), network(example))
    except Exception:  # noqa: BLE001 - such as a branch that depends on values
        return network
    return graph if same else network
