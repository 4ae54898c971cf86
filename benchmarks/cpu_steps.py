"""What two measures gain in training on a CPU: keeping freed memory, and folding BatchNorm of few channels.

    python -m benchmarks.cpu_steps [--rounds 5] [--images 6000] [--epochs 3] [--save]

Each training runs in a process of its own, with and without the measure, in pairs of turning order. `memory`:
`training.device.keep_freed` against glibc's defaults; the weights are equal in each bit. `fold`: `sweeper.norm` against
`nn.BatchNorm2d`. Images a second over all epochs, without evaluation, and the page faults of the whole training.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any, Final

import torch
from torch import nn

from benchmarks.hardware import THREADS, Others, describe
from benchmarks.pages import ROOT, Spread, add_save, conclude, head, table
from sweeper.core.config import RunConfig
from sweeper.data.fashion import resolve
from sweeper.training import network as networks
from sweeper.training.device import keep_freed, resolve_precision
from sweeper.training.evaluate import subset
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train

CASES: Final = (("memory", "small"), ("memory", "medium"), ("memory", "large"), ("fold", "small"))


def train_once(measure: str, model: str, threads: int, on: bool, images: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train in this process."""
    torch.set_num_threads(threads)
    if on or measure == "fold":
        keep_freed()
    if not on and measure == "fold":
        networks.batch_norm_2d = nn.BatchNorm2d
    precision = resolve_precision("auto", "cpu")
    config = RunConfig.create(experiment=7, model=model, placement="bn", epochs=epochs, dataset="sample", seed=seed,
                              precision=precision)  # fmt: skip
    (data,) = load(config, resolve(config.dataset)[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    result = finish(train(config, Data(subset(data.train, images), data.val)))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    seconds = sum(epoch.epoch_s for epoch in result.history)
    return {"images_per_s": images * epochs / seconds, "faults": faults, "weights": result.weights_sha256,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip


def apart(*call: object) -> dict[str, Any]:
    """The same in a process of its own."""
    with Others() as others:
        done = subprocess.run([sys.executable, "-m", "benchmarks.cpu_steps", "--once", json.dumps(call)],
                              cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # fmt: skip
    return {**json.loads(done.stdout.splitlines()[-1]), "others": others.cores}


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Pairs of every case, by its name; a line for each pair."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.rounds):
        for what, model in CASES:
            for threads in (1, THREADS):
                order = (True, False) if seed % 2 else (False, True)
                pair = {on: apart(what, model, threads, on, args.images, args.epochs, seed) for on in order}
                if what == "memory" and pair[True]["weights"] != pair[False]["weights"]:
                    raise SystemExit(f"{model}: other weights with kept memory")
                name = f"{what}, {model}, {threads} thread{'s' * (threads > 1)}"
                pairs.setdefault(name, []).append({"with": pair[True], "without": pair[False]})
                print(f"round {seed + 1}/{args.rounds}, {name}: {pairs[name][-1]}", flush=True)
    return pairs


def row(name: str, pairs: list[dict[str, Any]]) -> list[str]:
    """What the table says of one case."""
    ratio = Spread.of([p["with"]["images_per_s"] / p["without"]["images_per_s"] for p in pairs])
    speed, faults, peak = ([Spread.of([p[side][key] for p in pairs]).show(0) for side in ("without", "with")]
                           for key in ("images_per_s", "faults", "peak_mib"))  # fmt: skip
    others = Spread.of([p[side]["others"] for p in pairs for side in ("with", "without")])
    return [name, *speed, ratio.show(2, "x"), *faults, *peak, others.show(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)
    add_save(parser)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(train_once(*args.once)))
        return
    hardware = describe()
    pairs = measure(args)
    what = (f"BatchNorm, crop and flip, batch 128, {args.epochs} epochs of {args.images:,} images; medians [min-max], "
            f"n = {args.rounds} pairs.")  # fmt: skip
    header = ["measure", "images/s without", "with", "with / without", "page faults without", "with",
              "peak memory without, MiB", "with", "others, cores"]  # fmt: skip
    line = f"python -m benchmarks.cpu_steps --rounds {args.rounds} --images {args.images} --epochs {args.epochs}"
    parts = [*head("Kept memory, folded BatchNorm", hardware, what, line),
             table(header, [row(name, found) for name, found in pairs.items()])]  # fmt: skip
    conclude("cpu_steps", hardware, parts, {"pairs": pairs}, args.save)


if __name__ == "__main__":
    main()
