"""Train resnet20 on the whole of FashionMNIST: parameters, seconds an epoch, accuracy after a few epochs.

    python -m benchmarks.residual [--placements bn bn-dropout-last] [--epochs 10] [--seeds 1] [--save]

Each run is `sweeper.train` on all 60,000 training images with the augmentation, optimizer and schedule of experiment 8.
It is judged on the 10,000 test images after its last epoch; nothing is chosen by them. One seed decides nothing between
placements.
"""

from __future__ import annotations

import argparse
import tempfile
from statistics import fmean, median
from typing import Any, Final

from benchmarks.hardware import Others, describe
from benchmarks.pages import add_save, command, conclude, head, table
from sweeper import experiment, train
from sweeper.core.config import Placement
from sweeper.data.fashion import find
from sweeper.training.networks import build_model, parameter_count

RATES: Final = {"conv_dropout": 0.1, "head_dropout": 0.2}


def once(placement: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train once; return accuracy in [0, 1], NLL in nats, median seconds an epoch, and the load of others."""
    rates = {name: rate for name, rate in RATES.items() if Placement(placement).uses(name)}
    base = experiment(8, model="resnet20", placement=placement, epochs=epochs, seed=seed, split="test",
                      dataset="fashion-mnist", **rates)  # fmt: skip
    with tempfile.TemporaryDirectory() as home, Others() as others:
        run = train(base, home=home, tracking_uri="offline", progress=False)
    history = run.history
    return {
        "placement": placement, "seed": seed,
        "parameters": parameter_count(build_model(base, find("fashion-mnist").spec)),
        "accuracy": float(history["val/accuracy"].iloc[-1]), "loss": float(history["val/loss"].iloc[-1]),
        "train_accuracy": float(history["train/accuracy"].iloc[-1]),
        "epoch_s": median(history["time/epoch_s"]), "others": others.cores,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--placements", nargs="+", default=["bn", "bn-dropout-last"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    runs = []
    for seed in range(args.seeds):
        for placement in args.placements:
            runs.append(once(placement, seed, args.epochs))
            print(runs[-1], flush=True)
    what = f"At the last of {args.epochs} epochs; means over {args.seeds} seeds, the median of seconds an epoch."
    rows = []
    for placement in args.placements:
        found = [run for run in runs if run["placement"] == placement]
        mean = {name: fmean(run[name] for run in found) for name in ("accuracy", "train_accuracy", "loss", "others")}
        rows.append([
            placement, f"{found[0]['parameters']:,}", f"{100 * mean['accuracy']:.2f}",
            f"{100 * mean['train_accuracy']:.2f}", f"{mean['loss']:.3f}",
            f"{median(run['epoch_s'] for run in found):.1f}", f"{mean['others']:.2f}",
        ])  # fmt: skip
    names = [
        "placement",
        "parameters",
        "test accuracy, %",
        "train accuracy, %",
        "NLL, nats",
        "s an epoch",
        "others, cores",
    ]
    parts = [*head("resnet20 on FashionMNIST", hardware, what, command("residual", args)), table(names, rows)]
    conclude("residual", hardware, parts, {"runs": runs}, args.save)


if __name__ == "__main__":
    main()
