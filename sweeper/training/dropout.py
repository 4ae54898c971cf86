"""The schedule of Dropout: the epochs in which it is active.

Dropout in the first epochs only helps a network that underfits; in the last epochs only, one that overfits (Liu et al.
2023, arXiv 2303.01500).
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from sweeper.core.config import RunConfig

DROPOUT: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def dropout_layers(model: nn.Module) -> dict[Any, float]:
    """Return the Dropout layers of `model`, each with its rate."""
    return {layer: layer.p for layer in model.modules() if isinstance(layer, DROPOUT)}


def schedule_dropout(layers: dict[Any, float], config: RunConfig, epoch: int) -> None:
    """Set the layers' rates in epochs with Dropout, and 0 in the others. `epoch` counts from 1."""
    early = epoch <= config.dropout_switch
    acts = config.dropout_schedule == "constant" or (config.dropout_schedule == "early") == early
    for layer, rate in layers.items():
        layer.p = rate if acts else 0.0
