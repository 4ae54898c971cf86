"""A trained network as an MLflow model in a folder.

Nothing is sent from here, so that it can run in a process without credentials. It imports MLflow when it is called.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sweeper.core.images import Array

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

PACKAGES: Final = ("torch", "torchvision", "numpy", "pandas")


def save_model(
    network: Any, loader: Path, images: Array, classes: Sequence[str], path: str, described: Model
) -> Model:  # fmt: skip
    """Save `network` in the new folder `path`.

    MLflow's pytorch flavour loads the network itself, its pyfunc flavour what `loader` makes of it: probabilities under
    the names of the classes. Neither needs our code, unless `needs` says so.

    Args:
        network: a PyTorch module on the CPU, in eval mode, that maps images to logits. Its attribute `needs` lists the
            modules, besides torch's, without which it cannot be loaded.
        loader: a Python file with the function `_load_pyfunc` that MLflow asks for; it is copied.
        images: uint8 `(N, H, W)` or `(N, H, W, 3)`, for the signature and the input example.
        classes: the names of the logits.
        path: a folder that does not exist yet.
        described: the model's description.

    Returns:
        `described`, completed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow.pyfunc
    import mlflow.pytorch

    needs = list(vars(network).get("needs", ()))
    shape = f"(N, {', '.join(map(str, images.shape[1:]))})"
    # It warns of pickle, which is its only format of a network that can be trained further.
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
    mlflow.pytorch.save_model(
        network,
        path,
        mlflow_model=described,
        code_paths=[str(loader)],
        signature=_signature(images, classes),
        input_example=images,
        serialization_format="pickle",
        pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
        metadata={"classes": list(classes), "input": f"uint8 {shape}, pixels from 0 to 255", "needs": needs},
    )
    described.flavors[mlflow.pyfunc.FLAVOR_NAME]["loader_module"] = loader.stem
    described.save(str(Path(path) / "MLmodel"))
    return described


def _signature(images: Array, classes: Sequence[str]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    inputs = Schema([TensorSpec(images.dtype, (-1, *images.shape[1:]))])
    return ModelSignature(inputs, Schema([ColSpec(DataType.float, name) for name in classes]))
