"""The article's eight experiments, as configurations."""

from __future__ import annotations

import json
from typing import Any, Final

from sweeper.core.config import PLACES, Placement, RunConfig, check_rates
from sweeper.core.errors import ConfigError

_PLAIN: Final = {"epochs": 20, "lr": 1e-3, "schedule": "constant", "split": "test"}
_SCHEDULED: Final = _PLAIN | {"schedule": "cosine"}
_BOTH: Final = _SCHEDULED | {"model": "medium", "placement": "bn-dropout", "conv_dropout": 0.1, "head_dropout": 0.3}

# docs/results/reproduction.md gives the reason for each value that the article leaves open.
EXPERIMENTS: Final[dict[int, dict[str, Any]]] = {
    1: _PLAIN | {"model": "small", "placement": "none"},
    2: _PLAIN | {"model": "medium", "placement": "none"},
    3: _PLAIN | {"model": "medium", "placement": "none", "augmentation": "crop-flip"},
    4: _SCHEDULED | {"model": "medium", "placement": "bn"},
    5: _SCHEDULED | {"model": "medium", "placement": "dropout", "conv_dropout": 0.1, "head_dropout": 0.3},
    6: _BOTH,
    7: _BOTH | {"augmentation": "crop-flip"},
    8: {
        "model": "large",
        "placement": "bn-head-dropout",
        "head_dropout": 0.4,
        "augmentation": "crop-flip-erase",
        "epochs": 45,
        "batch_size": 256,
        "lr": 4e-3,
        "weight_decay": 0.1,
        "schedule": "onecycle",
        "split": "test",
    },
}

# Experiment 8 as it was declared first. It reached 94.49 % in one seed; the present recipe was then chosen on held-out
# images, and frozen (docs/results/reproduction.md).
FIRST_8: Final[dict[str, Any]] = {
    "placement": "bn-dropout", "conv_dropout": 0.1, "head_dropout": 0.4, "epochs": 30, "weight_decay": 0.02,
}  # fmt: skip

EXPERIMENT_TITLES: Final = {
    1: "small CNN, plain",
    2: "medium CNN, plain",
    3: "medium CNN, augmentation",
    4: "medium CNN, BatchNorm",
    5: "medium CNN, Dropout",
    6: "medium CNN, BatchNorm and Dropout",
    7: "medium CNN, BatchNorm, Dropout and augmentation",
    8: "large CNN, BatchNorm, Dropout and augmentation",
}


DEFAULT: Final = 6  # of the command line
LEFT_OUT: Final = (
    "experiment", "model_args", "model_sha256", "dataset_sha256", "split", "folds", "device",
    "precision",
)  # fmt: skip


def experiment(number: int, **fields: Any) -> RunConfig:
    """Return the article's experiment `number` (1-8), with `fields` overriding its own.

    Raises:
        ConfigError: there is no such experiment, a field is wrong, or the placement does not use a given rate.
    """
    if number not in EXPERIMENTS:
        listing = "; ".join(f"{n} {title}" for n, title in EXPERIMENT_TITLES.items())
        raise ConfigError(f"experiment {number} does not exist. The eight are: {listing}.")
    config = RunConfig.create(**(EXPERIMENTS[number] | {"experiment": number} | fields))
    check_rates(config, fields)
    return config


def train_options(config: RunConfig) -> list[str]:
    """Return the options with which `sweeper train` trains `config`: its experiment, and each field that differs.

    Those of the machine, device and precision, are left out.
    """
    number = config.experiment or DEFAULT
    usual = experiment(number)
    words = ["--exp", str(number)]
    for name in RunConfig.model_fields:
        value, differs = getattr(config, name), getattr(config, name) != getattr(usual, name)
        if name in PLACES:  # an experiment without Dropout has no rate, yet a placement with Dropout has a default one
            differs = config.placement.uses(name) and (differs or config.placement != usual.placement)
        if value is Placement.OWN:  # which the network has anyway
            continue
        if name not in LEFT_OUT and (differs or name == "dataset"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for key, value in config.model_args:
        words += ["--model-arg", f"{key}={json.dumps(value)}"]
    return [*words, "--folds", str(config.folds)] if config.folds else [*words, "--split", config.split]
