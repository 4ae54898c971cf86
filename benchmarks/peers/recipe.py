"""What the peers' scripts share: the images, the network with the rates that are searched, and the picture of a run.

The training is `benchmarks.stock_recipe`: torchvision's transforms, a DataLoader with two workers, fp32, Adam. Two
rates are searched, and nothing that a trial's time depends on, so that trials cost the same whatever a sampler asks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from sweeper.core.config import RunConfig
from sweeper.data.fashion import find
from sweeper.training.images import Data, load

RATES: Final = {"conv_dropout": (0.02, 0.4), "head_dropout": (0.05, 0.6)}
FIXED: Final = {"placement": "bn-dropout", "batch_size": 128, "schedule": "constant"}
AUGMENTATION: Final = "crop-flip"


def parse_args() -> argparse.Namespace:
    """The sweep that is wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="medium")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tracking_uri() -> str:
    """MLflow's database, in the working directory."""
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def trial_config(model: str, epochs: int, **rates: float) -> RunConfig:
    """One trial."""
    return RunConfig.create(model=model, epochs=epochs, dataset="sample", augmentation=AUGMENTATION, **FIXED, **rates)


def images(config: RunConfig) -> Data:
    """6,000 images to train on and 1,000 to judge by, the same for every tool."""
    [data] = load(config, find(config.dataset))
    return data


def curve(accuracies: Sequence[float], losses: Sequence[float]) -> Figure:
    """Validation accuracy and loss by epoch."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for axes, values, name in ((left, accuracies, "validation accuracy"), (right, losses, "validation loss")):
        axes.plot(range(1, len(values) + 1), values, marker="o")
        axes.set(xlabel="epoch", ylabel=name)
    plt.close(figure)
    return figure
