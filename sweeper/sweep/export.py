"""A trained network as an MLflow model in a folder. torch and MLflow are imported where it is called: nothing is sent
from there, so that it may be a process without credentials.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import safetensors.numpy

from sweeper.core.config import RunConfig
from sweeper.core.images import CLASSES
from sweeper.data.splits import Labelled

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

PACKAGES: Final = ("torch", "torchvision", "numpy", "pandas")


def save_model(config: RunConfig, weights: bytes, example: Labelled, path: str, described: Model) -> Model:
    """Save the network of `config` with `weights`, a file of safetensors, in the folder `path`.

    MLflow's pytorch flavour gives the network, uint8 images to logits; its pyfunc flavour gives probabilities under the
    names of the classes. Both need none of our code.

    Args:
        config: of the network.
        weights: its parameters and buffers, by their names.
        example: images that MLflow shows as an input example.
        path: of a folder that does not exist yet.
        described: what MLflow knows of the model so far.

    Returns:
        `described`, the model's own description, with what is known of it now.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow.pyfunc
    import mlflow.pytorch

    from sweeper.training import champion_pyfunc
    from sweeper.training.serving import served

    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)  # it warns of pickle, the only format that can train on
    mlflow.pytorch.save_model(
        served(config, safetensors.numpy.load(weights)),
        path,
        mlflow_model=described,
        code_paths=[champion_pyfunc.__file__],
        signature=_signature(example),
        input_example=example.pixels,
        serialization_format="pickle",
        pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
        metadata={"classes": list(CLASSES), "input": "uint8 (N, 28, 28), pixels from 0 to 255"},
    )
    pyfunc = described.flavors[mlflow.pyfunc.FLAVOR_NAME]
    pyfunc["loader_module"] = "champion_pyfunc"
    described.save(str(Path(path) / "MLmodel"))
    return described


def _signature(example: Labelled) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    images = TensorSpec(np.dtype("uint8"), (-1, *example.pixels.shape[1:]))
    return ModelSignature(Schema([images]), Schema([ColSpec(DataType.float, name) for name in CLASSES]))
