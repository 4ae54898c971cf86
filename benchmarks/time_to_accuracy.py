"""How long does a GPU train until a given validation accuracy, over several seeds?

    python -m benchmarks.time_to_accuracy [--accuracy 0.93] [--seeds 5] [--epochs 20] [--exp 8] [--save]

An experiment of the study on all training images but those held out, as `sweeper train` trains it, until the first
epoch after which the accuracy on the held-out images is reached. Counted are the training passes (`time/epoch_s`),
and, apart, the wall seconds with evaluations; a first short run warms up. A seed that does not reach it is said so, and
is in no median. The test images are not looked at. Without a GPU it says so and ends with status 1.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import Any

from benchmarks.hardware import describe, no_gpu
from benchmarks.pages import Spread, add_save, conclude, head, table
from sweeper.core.config import RunConfig
from sweeper.core.experiments import experiment
from sweeper.data.fashion import resolve
from sweeper.training.device import resolve_precision
from sweeper.training.gpu.captured import train_captured
from sweeper.training.images import Data, load


def until(config: RunConfig, data: Data, accuracy: float) -> dict[str, Any]:
    """Train one seed until it is there, or to its last epoch."""
    begin, seconds, best, epochs = perf_counter(), 0.0, 0.0, 0
    for epoch in train_captured(config, data):
        seconds, best, epochs = seconds + epoch.epoch_s, max(best, epoch.val_accuracy), epoch.epoch
        if best >= accuracy:
            break
    return {"seed": config.seed, "reached": best >= accuracy, "best": best, "epochs": epochs, "training_s": seconds,
            "wall_s": perf_counter() - begin}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", type=float, default=0.93)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="of the schedule, which decides how fast it is there")
    parser.add_argument("--exp", type=int, default=8)
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="fashion-mnist")
    add_save(parser)
    args = parser.parse_args()
    if reason := no_gpu():
        sys.exit(reason)
    config = experiment(args.exp, dataset=args.dataset, split="holdout", epochs=args.epochs, device="cuda",
                        precision=resolve_precision("auto", "cuda"))  # fmt: skip
    [data] = load(config, resolve(config.dataset)[1])
    data = Data(data.train.to("cuda"), data.val.to("cuda"))
    until(config.derive(epochs=1), data, 1.0)  # to warm up
    hardware = describe(device="cuda")
    runs = []
    for seed in range(args.seeds):
        runs.append(until(config.derive(seed=seed), data, args.accuracy))
        print(runs[-1], flush=True)
    there = [run for run in runs if run["reached"]]
    rows = [[name, Spread.of([run[key] for run in there]).show(2)] for key, name in
            (("training_s", "training passes, s"), ("wall_s", "with evaluations, s"), ("epochs", "epochs"))
            if there]  # fmt: skip
    rows.append(["seeds that reached it", f"{len(there)} of {len(runs)}"])
    line = (f"python -m benchmarks.time_to_accuracy --accuracy {args.accuracy} --seeds {args.seeds} "
            f"--epochs {args.epochs} --exp {args.exp} --dataset {args.dataset}")  # fmt: skip
    what = f"Experiment {args.exp}, {config.precision}; medians [min-max] over seeds."
    parts = [*head(f"Seconds to a validation accuracy of {args.accuracy}", hardware, what, line), table(["", ""], rows)]
    conclude("time_to_accuracy", hardware, parts, {"accuracy": args.accuracy, "runs": runs}, args.save)


if __name__ == "__main__":
    main()
