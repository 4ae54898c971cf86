"""Measure the images that training takes a second, as a share of the machine's matmul peak too.

    python -m benchmarks.throughput [--models small medium large] [--batch-sizes 64 128 256 512] [--devices cpu]
        [--placement bn-dropout] [--epochs 3] [--rounds 3] [--save]

`sweeper.train` on the embedded sample, in this process, shifted and mirrored images. The first epoch warms up; counted
are the training passes of the others. A round takes each case once. The share is GFLOP/s of the convolutions and linear
layers in a training pass, over the fastest product of two matrices in the same precision and with the same threads,
measured at the start of this run: what a case leaves of it went into everything else that a step does.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hardware import THREADS, Others, describe
from benchmarks.pages import Spread, add_save, command, conclude, head, table
from sweeper.core.config import PLAIN, RunConfig
from sweeper.data.fashion import SAMPLE, SIDE, find
from sweeper.training.device import resolve_precision, use_threads
from sweeper.training.folds import finish
from sweeper.training.images import load
from sweeper.training.loop import train
from sweeper.training.networks import build_model


def cases(args: argparse.Namespace) -> list[RunConfig]:
    """Return the configurations to train."""
    base = RunConfig.create(
        dataset=args.dataset, epochs=args.epochs, placement=args.placement, augmentation="crop-flip"
    )
    return [
        base.derive(model=model, batch_size=size, device=device, precision=resolve_precision(args.precision, device))
        for device, model, size in product(args.devices, args.models, args.batch_sizes)
    ]


def training_flops(config: RunConfig) -> int:
    """Count the operations of convolutions and linear layers to train on one image; a multiply-add is two.

    Three times the forward pass, one for each of output, input gradient and weight gradient;
    the first layer needs no input gradient.
    """
    forward: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        forward.append(2 * layer.weight[0].numel() * output[0, 0].numel() * output.shape[1])

    model = build_model(config, SAMPLE.spec).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 1, SIDE, SIDE))
    return 3 * sum(forward) - forward[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("small", "medium", "large"), default=["small", "medium"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--devices", nargs="+", default=["cuda" if torch.cuda.is_available() else "cpu"])
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="sample")
    parser.add_argument("--placement", choices=[p.value for p in PLAIN], default="bn-dropout")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--epochs", type=int, default=3, help="at least 2: the first one warms up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=THREADS)
    add_save(parser)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error(f"--epochs {args.epochs}: at least 2, the first one warms up")
    hardware = {device: describe(args.threads, device) for device in args.devices}
    use_threads(args.threads)
    [data] = load(cases(args)[0], find(args.dataset))
    rates: dict[RunConfig, list[float]] = {config: [] for config in cases(args)}
    with Others() as others:
        for number in range(args.rounds):
            for config in rates:
                epochs = finish(train(config, data)).history[1:]
                rates[config].append(statistics.median(epoch.images_per_s for epoch in epochs))
                print(f"round {number + 1}/{args.rounds}: {config.device} {config.model} {config.batch_size} "
                      f"{config.precision}: {rates[config][-1]:,.0f} images/s", flush=True)  # fmt: skip
    rows, record = [], []
    for config, its in rates.items():
        gflops = [rate * training_flops(config) / 1e9 for rate in its]
        share = statistics.median(gflops) / hardware[config.device]["matmul_gflops"][config.precision]
        rows.append([config.device, config.model, str(config.batch_size), config.precision, Spread.of(its).show(0),
                     Spread.of(gflops).show(1), f"{share:.1%}"])  # fmt: skip
        record.append({"device": config.device, "model": config.model, "batch_size": config.batch_size,
                       "precision": config.precision, "images_per_s": its, "share": share})  # fmt: skip
    what = (f"Medians [min-max], n = {args.rounds} rounds, in turn. Other processes kept {others.cores:.2f} cores busy "
            "meanwhile.")  # fmt: skip
    last = hardware[args.devices[-1]]
    header = ["device", "model", "batch size", "precision", "images/s", "GFLOP/s", "of the matmul peak"]
    parts = [
        *head("Training throughput, and its distance to the machine's peak", last, what, command("throughput", args)),
        table(header, rows),
    ]
    conclude("throughput", last, parts, {"cases": record, "others": others.cores}, args.save)


if __name__ == "__main__":
    main()
