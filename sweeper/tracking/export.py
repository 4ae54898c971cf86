"""A trained network as an MLflow model in a folder.

Nothing is sent from here, so that it can run in a process without credentials. It imports MLflow when it is called.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sweeper.core.images import Array

if TYPE_CHECKING:
    from mlflow.models import Model


def save_model(network: Any, inputs: Array, path: str, described: Model) -> Model:
    """Save `network`, a PyTorch module on the CPU, in the new folder `path`.

    Args:
        network: the module, in eval mode.
        inputs: normalized images `(N, 1, 28, 28)`, two at least: PyTorch exports the network by running it on them.
        path: a folder that does not exist yet.
        described: the model's description.

    Returns:
        `described`, completed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow.pytorch

    mlflow.pytorch.save_model(
        network,
        path,
        mlflow_model=described,
        input_example=inputs,
        serialization_format="pt2",
        pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "numpy")],
    )
    return described
