"""How should Batch Normalization and Dropout be combined in a network? Evidence, tracked in MLflow."""

__version__ = "0.1.0"
