"""The networks: small, medium, large, resnet20, and your own. See docs/own-network.md and docs/placements.md."""

from sweeper.training.networks.build import build_model, load_weights, parameter_count
from sweeper.training.networks.weights import check_fit, read_weights

__all__ = ["build_model", "check_fit", "load_weights", "parameter_count", "read_weights"]
