"""Class probabilities from a champion, through MLflow's pyfunc.

MLflow keeps a copy of this file next to the model and imports it from there: it must not import `sweeper`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

BATCH = 500  # images


class Probabilities:
    """Maps uint8 images `(N, H, W)` to a table of probabilities, a column for each class."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._bf16 = vars(network)["precision"] == "bf16"
        self._classes = list(vars(network)["classes"])

    @torch.inference_mode()
    def predict(self, images: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return the probability of each class for each image, pixels from 0 to 255."""
        pixels = torch.from_numpy(np.array(images))
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = [self._network(batch).float() for batch in pixels.split(BATCH)]
        return pd.DataFrame(torch.cat(logits).softmax(1).numpy(), columns=self._classes)


def _load_pyfunc(path: str, _config: dict[str, Any] | None = None) -> Probabilities:
    """Load the model from MLflow's folder `path`; MLflow calls this function by its name."""
    network = torch.load(Path(path) / "model.pth", weights_only=False)
    return Probabilities(network.eval())
