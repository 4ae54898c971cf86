"""A trained network as an MLflow model in a folder. torch and MLflow are imported where it is called: nothing is sent
from there, so that it may be a process without credentials.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

import safetensors.numpy

from sweeper.core.config import RunConfig
from sweeper.data.splits import Labelled

if TYPE_CHECKING:
    from mlflow.models import Model


def save_model(config: RunConfig, weights: bytes, example: Labelled, path: str, described: Model) -> Model:
    """Save the network of `config` with `weights`, a file of safetensors, in the new folder `path`.

    `example` are two images at least: PyTorch exports the network by what becomes of them.

    Returns:
        `described`, the model's own description, with what is known of it now.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow.pytorch

    from sweeper.data.splits import Split
    from sweeper.training.evaluate import predict_weights
    from sweeper.training.images import Data, normalize

    images = Data.from_arrays(Split(example, example)).train
    model, _ = predict_weights(config, safetensors.numpy.load(weights), images)
    mlflow.pytorch.save_model(
        model,
        path,
        mlflow_model=described,
        input_example=normalize(images.pixels).numpy(),
        serialization_format="pt2",
        pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "numpy")],
    )
    return described
