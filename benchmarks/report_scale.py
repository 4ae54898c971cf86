"""How long the report of a large study takes, and how large it is: a synthetic study of 1,000 trials, by default.

    python -m benchmarks.report_scale [TRIALS]

Makes an Optuna study in sqlite and a journal in a temporary folder, without training, and times reading them,
drawing and writing the page. The target is 10 s and 15 MB for 1,000 trials of 10 epochs.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import optuna

from sweeper import cli
from sweeper.journal import FINISHED, JournalTracker, RunInfo
from sweeper.report.sweep_page import prints, sweep_page
from sweeper.report.sweep_rows import read_sweep
from sweeper.study import read_record

EPOCHS: Final = 10
TARGET_SECONDS: Final = 10.0
TARGET_BYTES: Final = 15_000_000
NAME: Final = "synthetic"
CONV: Final = ("dropout", "bn-dropout", "dropout-bn", "ic")
SPACE: Final = {
    "placement": optuna.distributions.CategoricalDistribution(cli.PLACEMENTS),
    "conv_dropout": optuna.distributions.FloatDistribution(0.02, 0.4),
    "head_dropout": optuna.distributions.FloatDistribution(0.05, 0.6),
    "batch_size": optuna.distributions.CategoricalDistribution((32, 64, 128, 256, 512)),
}


def main(trials: int) -> dict[str, Any]:
    """Make the study, report it, and say how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        storage = f"sqlite:///{home / 'sweeper.db'}"
        make(storage, home / "journal", trials)
        start = time.perf_counter()
        record = read_record(NAME, storage)
        sweep = read_sweep(record, home / "journal")
        read = time.perf_counter()
        pictures = prints(sweep)
        drawn = time.perf_counter()
        page = sweep_page(sweep, pictures)
        end = time.perf_counter()
    return {
        "trials": trials,
        "seconds": round(end - start, 2),
        "of_reading": round(read - start, 2),
        "of_pictures": round(drawn - read, 2),
        "of_the_page": round(end - drawn, 2),
        "megabytes": round(len(page) / 1e6, 2),
        "within_target": end - start <= TARGET_SECONDS and len(page) <= TARGET_BYTES,
    }


def make(storage: str, journal: Path, trials: int) -> None:
    """A study of `trials` trials, a quarter of them pruned, and the journal of their runs."""
    rng = random.Random(0)
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
    study.set_user_attr("uid", NAME)
    study.set_user_attr("settings", {"model": "small", "epochs": EPOCHS, "dataset_sha256": "0" * 64})
    frozen = [_trial(rng, number) for number in range(trials)]
    study.add_trials(frozen)
    tracker = JournalTracker(journal)
    for number, trial in enumerate(frozen):
        profile = {"train_images": 6000, "val_images": 1000}
        info = RunInfo(f"{NAME}/{number}", f"{number:04d}", {}, {}, "", f"{NAME}/{number:04d}", {"profile": profile})
        log = tracker.start(info)
        for epoch, accuracy in trial.intermediate_values.items():
            log.epoch(epoch, _metrics(accuracy))
        log.end(FINISHED, {}, {})


def _trial(rng: random.Random, number: int) -> optuna.trial.FrozenTrial:
    params: dict[str, Any] = {"placement": rng.choice(cli.PLACEMENTS), "batch_size": 2 ** rng.randint(5, 9)}
    if params["placement"] in CONV:
        params["conv_dropout"] = rng.uniform(0.02, 0.4)
    if params["placement"] not in ("none", "bn"):
        params["head_dropout"] = rng.uniform(0.05, 0.6)
    top = 0.93 - 0.01 * math.log2(params["batch_size"] / 32) - abs(params.get("head_dropout", 0.1) - 0.2) / 10
    ends = number % 4 == 3
    curve = {e: top - 0.3 * math.exp(-e / 2) + rng.gauss(0, 0.004) for e in range(1, 4 if ends else EPOCHS + 1)}
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if ends else optuna.trial.TrialState.COMPLETE,
        params=params,
        distributions={name: SPACE[name] for name in params},
        intermediate_values=curve,
        value=None if ends else curve[EPOCHS],
        user_attrs={"reason": "pruned after epoch 3"} if ends else {"val_loss": 1 - curve[EPOCHS]},
    )
    trial.number = number
    return trial


def _metrics(accuracy: float) -> dict[str, float]:
    loss = 1.1 - accuracy
    return {
        "train/loss": loss - 0.05, "train/accuracy": accuracy + 0.02, "val/loss": loss, "val/accuracy": accuracy,
        "val/ece": 0.02, "gap/loss": 0.05, "gap/accuracy": 0.02, "lr": 1e-3, "grad_norm": 1.0,
        "time/epoch_s": 2.0, "time/images_per_s": 3000.0,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)))
