"""Trials an hour of trainings that advance together, against their number K, against one after the other, and against
processes.

    python -m benchmarks.fused [--model small] [--members 1 2 4 8 16 32 64] [--epochs 2] [--rounds 3] [--save]
    python -m benchmarks.fused --device cuda --model medium --dataset fashion-mnist --members 1 4 10 16 32 [--save]

Every engine trains the same: trials of the model, under sweeper's driver, with nothing recorded. The rate counts from
the first trial's begin, with workers that are there already, to the last one's end, evaluations included. K members are
given K trials; one after the other and the processes, one each, are given as many as there are processes, at least two.
On a GPU the loop that `training.loop.train` is, which launches its operations one by one, trains one trial. A round
runs each case once. With --device cuda and without a GPU it says so and ends with status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from matplotlib.figure import Figure

from benchmarks.hardware import Others, describe, no_gpu, usable_cores
from benchmarks.journal_cost import Silent
from benchmarks.pages import Spread, add_save, conclude, head, table
from benchmarks.peers.recipe import trial_config
from sweeper.core.config import RunConfig
from sweeper.data.fashion import resolve
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.fused import FusedEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.sweep.driver import Driver
from sweeper.sweep.source import Fixed
from sweeper.tracking.base import NullTracker, RunInfo
from sweeper.training.device import resolve_precision
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train

Case = tuple[str, int, Callable[[Sequence[RunConfig]], float]]  # its name, how many trials, trials an hour of them
ALONE: Final = "one after the other"


def trials_an_hour(engine: Engine, configs: Sequence[RunConfig]) -> float:
    """Train all of `configs` on `engine`, which is closed."""
    with tempfile.TemporaryDirectory() as folder:
        info = RunInfo("key", "benchmark", {}, {}, "", str(Path(folder)))
        start = perf_counter()
        try:
            Driver(Fixed(configs), engine, NullTracker(), lambda _: info, Silent()).run(len(configs))
        finally:
            engine.close()
        return 3600 * len(configs) / (perf_counter() - start)


def configs_of(args: argparse.Namespace, count: int) -> list[RunConfig]:
    """Trials that differ in their seeds and rates, as those of a sweep do."""
    precision = resolve_precision("auto", args.device)
    base = trial_config(args.model, args.epochs).derive(dataset=args.dataset, device=args.device, precision=precision)
    return [base.derive(seed=i, conv_dropout=0.02 + 0.3 * i / count, head_dropout=0.05 + 0.5 * i / count)
            for i in range(count)]  # fmt: skip


def step_by_step(data: Sequence[Data], configs: Sequence[RunConfig]) -> float:
    """Trials an hour of the loop that launches its operations one by one."""
    start = perf_counter()
    for config in configs:
        finish(train(config, data[0]))
    return 3600 * len(configs) / (perf_counter() - start)


def warm(data: Sequence[Data], config: RunConfig, workers: int) -> Engine:
    """Worker processes that have trained once."""
    splits = SharedSplits([each.arrays() for each in data])
    engine = ProcessEngine(splits, workers, max(1, (usable_cores() or 1) // workers))
    for key in range(workers):
        engine.submit(key, config.derive(epochs=1))
    while engine.free() < workers:
        engine.wait(0.1)
    return engine


def cases(args: argparse.Namespace, data: Sequence[Data]) -> list[Case]:
    """Every way to train that is compared. The images are on the device already, but for processes."""
    cores, device = usable_cores() or 1, args.device
    [config] = configs_of(args, 1)
    there = [Data(part.train.to(torch.device(device)), part.val.to(torch.device(device))) for part in data]
    found: list[Case] = [
        (ALONE, max(2, args.processes), lambda its: trials_an_hour(SerialEngine(there, cores), its)),
        (f"{args.processes} processes", max(2, args.processes),
         lambda its: trials_an_hour(warm(data, config, args.processes), its)),
    ]  # fmt: skip
    if device != "cpu":
        found.insert(0, ("step by step", 1, lambda its: step_by_step(there, its)))
    together: list[Case] = [
        (f"fused, K = {count}", count, lambda its: trials_an_hour(fused(there, device, len(its)), its))
        for count in args.members
    ]
    return found + together


def fused(data: Sequence[Data], device: str, members: int) -> Engine:
    """The engine that `--engine fused` is on this device."""
    cores = usable_cores() or 1
    if device == "cpu":
        return FusedEngine(data, cores, members)
    return ConcurrentEngine(data, device, cores, members)


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Trials an hour of each case, by round."""
    [config] = configs_of(args, 1)
    data = load(config, resolve(config.dataset)[1])
    trials_an_hour(SerialEngine(data, usable_cores() or 1), [config.derive(epochs=1)])  # to warm up
    compared = cases(args, data)
    rates: dict[str, list[float]] = {}
    for number in range(args.rounds):
        for name, count, rate in compared:
            rates.setdefault(name, []).append(rate(configs_of(args, count)))
            print(f"round {number + 1}/{args.rounds}, {name}: {rates[name][-1]:,.0f} trials an hour", flush=True)
    return rates


def rates_table(rates: dict[str, list[float]]) -> str:
    """A line a case; ratios are those of a round."""
    solo = rates[ALONE]
    [processes] = [its for name, its in rates.items() if name.endswith("processes")]
    rows = [[name, Spread.of(its).show(0), _ratio(its, solo), _ratio(its, processes)] for name, its in rates.items()]
    return table(["trainings", "trials an hour", "over one after the other", "over processes"], rows)


def _ratio(its: Sequence[float], others: Sequence[float]) -> str:
    return Spread.of([a / b for a, b in zip(its, others, strict=True)]).show(2, "x")


def picture(rates: dict[str, list[float]], members: Sequence[int]) -> Figure:
    """Trials an hour against K."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    others = {name: its for name, its in rates.items() if not name.startswith("fused")}
    for (name, its), style in zip(others.items(), ("--", ":", "-."), strict=False):
        axes.axhline(Spread.of(its).median, linestyle=style, label=name, color="0.4")
    spreads = [Spread.of(rates[f"fused, K = {k}"]) for k in members]
    low, high = [s.median - s.low for s in spreads], [s.high - s.median for s in spreads]
    axes.errorbar(members, [s.median for s in spreads], yerr=[low, high], marker="o", capsize=3, label="fused")
    axes.set(xscale="log", xlabel="members K", ylabel="trials an hour", ylim=(0, None))
    axes.set_xticks(members, map(str, members))
    axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("small", "medium", "large"), default="small")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=usable_cores() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="sample")
    add_save(parser)
    args = parser.parse_args()
    if args.device != "cpu" and (reason := no_gpu()):
        sys.exit(reason)
    hardware = describe(usable_cores() or 1, args.device)
    with Others() as others:
        rates = measure(args)
    extra = {} if args.device == "cpu" else {"gpu_peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    line = (f"python -m benchmarks.fused --device {args.device} --model {args.model} --epochs {args.epochs} "
            f"--members {' '.join(map(str, args.members))} --processes {args.processes} --rounds {args.rounds} "
            f"--dataset {args.dataset}")  # fmt: skip
    what = (f"{args.model} network, {args.epochs} epochs a trial, {args.dataset}; medians [min-max], n = {args.rounds} "
            f"rounds. Other processes kept {others.cores:.2f} cores busy meanwhile.")  # fmt: skip
    parts = [*head("Trainings that advance together", hardware, what, line), rates_table(rates)]
    record = {"model": args.model, "epochs": args.epochs, "trials_an_hour": rates, "others": others.cores, **extra}
    conclude(f"fused-{args.model}", hardware, parts, record, args.save, picture(rates, args.members))


if __name__ == "__main__":
    main()
