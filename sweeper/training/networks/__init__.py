"""The networks: small, medium, large, resnet20, and those of one's own (docs/how-to/own-network.md)."""

from sweeper.training.networks.build import build_model, load_weights, parameter_count

__all__ = ["build_model", "load_weights", "parameter_count"]
