"""Runs of arms drawn from a model of noise, with known true values: what the ledger is tested on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from sweeper.replication.runs import ArmRun

EPOCHS: Final = 6
UNSTABLE: Final = 2.3  # nats: the NLL of a network that has learned nothing

# True values of an arm, and the standard deviation over seeds.
TRUTH: Final = {
    "accuracy": (0.945, 0.0020),
    "early": (0.800, 0.0100),  # accuracy of the first epoch
    "nll": (0.250, 0.0060),
    "gap": (0.050, 0.0050),
    "gap_slope": (0.0, 0.0020),
    "val_slope": (0.0, 0.0020),
    "gap_accuracy": (0.020, 0.0020),
    "gain": (0.0, 0.0010),  # of train accuracy, over the second half
    "ece": (0.020, 0.0020),
    "confidence": (0.600, 0.0100),
    "shift": (1.200, 0.0200),
    "log_seconds": (1.0, 0.0200),
    "spikes": (2.0, 0.0),  # mean of a Poisson distribution
    "unstable": (0.0, 0.0),  # share of runs that end with the NLL of a guess
    "late": (math.nan, 0.0),  # share of runs with their lowest NLL in the second half; NaN: by chance
    "dip": (0.0, 0.0),  # of the NLL in epoch 2
}


# The same of the measures of other articles than learnopencv. They are drawn by a generator of their own.
MORE: Final = {
    "recalibration_accuracy": (0.0, 0.0005),
    "recalibration_nll": (0.0, 0.0030),
    "mask_variance": (1.0, 0.0500),
}


@dataclass(frozen=True)
class World:
    """What is true of each arm where it differs from `TRUTH`; `noise` scales all standard deviations."""

    truth: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    noise: float = 1.0
    epochs: int = EPOCHS

    def but(self, arm: str, **values: float) -> World:
        """The same, with other values of one arm."""
        return replace(self, truth={**self.truth, arm: {**self.truth.get(arm, {}), **values}})

    def value(self, arm: str, name: str) -> float:
        """What is true of an arm."""
        return self.truth.get(arm, {}).get(name, (TRUTH | MORE)[name][0])

    def draw(self, arms: Iterable[str], seeds: int, random: np.random.Generator) -> dict[str, list[ArmRun]]:
        """The runs of some arms."""
        return {arm: self._runs(arm, seeds, random) for arm in arms}

    def _runs(self, arm: str, seeds: int, random: np.random.Generator) -> list[ArmRun]:
        (apart,) = random.spawn(1)
        more = {name: self.value(arm, name) + self.noise * sd * apart.standard_normal(seeds)
                for name, (_, sd) in MORE.items()}  # fmt: skip
        epochs = 2 * self.epochs if arm.endswith("-long") else self.epochs
        x = {name: self.value(arm, name) + self.noise * sd * random.standard_normal(seeds)
             for name, (_, sd) in TRUTH.items()}  # fmt: skip
        e = np.arange(1 - epochs, 1)  # 0 at the last epoch

        def curve(end: np.ndarray, slope: np.ndarray | float, sd: float) -> np.ndarray:
            steps = np.asarray(slope)[..., None] * e
            return end[:, None] + steps + self.noise * sd * random.standard_normal((seeds, epochs))

        val_loss = curve(x["nll"], x["val_slope"], 0.002)
        if not math.isnan(late := self.value(arm, "late")):
            is_late = random.random(seeds) < late
            val_loss[np.arange(seeds), np.where(is_late, epochs - 2, 1)] -= 0.1
        val_loss[:, 1] -= self.value(arm, "dip")
        gap = curve(x["gap"], x["gap_slope"], 0.002)
        val_accuracy = curve(x["accuracy"], 0.0, 0.0005)
        val_accuracy[:, 0] = x["early"]
        gap_accuracy = curve(x["gap_accuracy"], 0.0, 0.0005)
        train_accuracy = curve(x["accuracy"] + x["gap_accuracy"], 2 * x["gain"] / epochs, 0.0002)
        gap_accuracy[:, -1] = x["gap_accuracy"]
        val_loss[random.random(seeds) < self.value(arm, "unstable"), -1] = UNSTABLE
        series = {
            "val/loss": val_loss, "train/loss": val_loss - gap, "gap/loss": gap, "val/accuracy": val_accuracy,
            "train/accuracy": train_accuracy, "gap/accuracy": gap_accuracy,
            "val/ece": np.repeat(x["ece"][:, None], epochs, 1),
            "time/epoch_s": np.exp(np.repeat(x["log_seconds"][:, None], epochs, 1)),
        }  # fmt: skip
        lists = {name: values.tolist() for name, values in series.items()}
        spikes = random.poisson(self.value(arm, "spikes"), seeds)
        return [
            ArmRun(
                arm, seed, "complete",
                [{"epoch": i + 1, **{name: values[seed][i] for name, values in lists.items()}} for i in range(epochs)],
                {"final/val_accuracy": lists["val/accuracy"][seed][-1], "final/val_loss": lists["val/loss"][seed][-1],
                 "xray/error_confidence": float(x["confidence"][seed]), "xray/variance_shift": float(x["shift"][seed]),
                 "xray/spikes": float(spikes[seed]), "xray/mask_variance": float(more["mask_variance"][seed]),
                 "xray/recalibration_gain_accuracy": float(more["recalibration_accuracy"][seed]),
                 "xray/recalibration_gain_loss": float(more["recalibration_nll"][seed])},
                Path(f"{arm}/seed-{seed}"), f"{arm}{seed}", None,
            )
            for seed in range(seeds)
        ]  # fmt: skip


_TIMES: Final = {"log_seconds": 1 + math.log(1.15)}
_HALF: Final = {"unstable": 0.5}

# In both worlds every verdict is wrong, on every claim but the 28th. That one is supported if three factors matter, and
# contradicted if one of them is shown not to: in any world one of the two verdicts on it is right.

# No effect anywhere: each number of each claim lies exactly at its bound, where neither verdict is right. Three rates
# with equal means contradict claim 28.
NOTHING: Final = World({
    "exp1-long": {"gain": 0.002},
    "exp2": {"late": 0.1},
    "exp4": _TIMES,
    "exp5": {"accuracy": 0.942},  # 0.3 points below exp4: claim 8
    "none-cosine": {"accuracy": 0.942},
    "bn-constant": {"accuracy": 0.942},
    "exp6": _TIMES,
    "exp7": {"gap_accuracy": 0.01},
    "bn-head-dropout": {"accuracy": 0.942, "nll": 0.26},
    "small-none": {"accuracy": 0.942},
    "small-dropout": {"accuracy": 0.942},
    "bn-lr-3e-2": _HALF,
    "none-lr-3e-2": _HALF,
})  # fmt: skip

# The least favourable: each claim is at its bound by one of its parts only, the others are true by far. Claim 28 is
# true, and its opposite at its bound: one of the rates lies exactly 0.3 points off.
ALMOST: Final = World({
    "exp1": {"accuracy": 0.895},
    "exp1-long": {"gain": 0.002, "gap_slope": 0.05},
    "exp2": {"late": 0.1, "early": 0.7},
    "exp3": {"gap": 0.0},
    "exp4": _TIMES,
    "exp5": {"accuracy": 0.942, "gap_slope": -0.05, "confidence": 0.4, "ece": 0.0},
    "none-cosine": {"accuracy": 0.90},
    "bn-constant": {"early": 0.85},
    "exp6": _TIMES,
    "exp7": {"accuracy": 0.965, "gap": -0.1, "gap_accuracy": 0.01, "gap_slope": 0.05},
    "bn-aug": {"accuracy": 0.965},
    "exp8": {"accuracy": 0.965},
    "dropout-bn": {"accuracy": 0.90},
    "bn-head-dropout": {"accuracy": 0.965, "nll": 0.26},
    "both-low": {"shift": 1.0, "accuracy": 0.942},
    "batch-32": {"accuracy": 0.90},
    "small-none": {"accuracy": 0.90},
    "small-dropout": {"accuracy": 0.90},
    "bn-lr-3e-2": _HALF,
    "none-lr-3e-2": _HALF,
})  # fmt: skip
