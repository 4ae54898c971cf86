"""Trials an hour of stacked trainings, against their number K, against one after the other, and against processes.

    python -m benchmarks.fused [--model small] [--members 1 2 4 8 16 32 64] [--epochs 2] [--rounds 3] [--save]

Every engine trains the same: trials of the model on the embedded sample, under sweeper's driver, with nothing recorded.
The rate counts from the first trial's begin, with workers that are there already, to the last one's end, evaluations
included. K members are given K trials; one after the other and the processes, one each, are given as many as there are
cores, at least two. A round runs each case once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure

from benchmarks.hardware import Others, describe, usable_cores
from benchmarks.journal_cost import Silent
from benchmarks.pages import Spread, add_save, conclude, head, table
from benchmarks.peers.recipe import trial_config
from sweeper.config import RunConfig
from sweeper.data import Data, load
from sweeper.dataset import resolve
from sweeper.engine.base import Engine
from sweeper.engine.fused import FusedEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.journal import NullTracker, RunInfo
from sweeper.splits import SharedSplits
from sweeper.sweep import Driver, Fixed
from sweeper.train import resolve_precision

Case = tuple[str, int, Callable[[], Engine]]  # its name, how many trials, its engine


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


def configs_of(args: argparse.Namespace, count: int, device: str) -> list[RunConfig]:
    """Trials that differ in their seeds and rates, as those of a sweep do."""
    base = trial_config(args.model, args.epochs).derive(dataset=args.dataset, device=device)
    base = base.derive(precision=resolve_precision("auto", device))
    return [base.derive(seed=i, conv_dropout=0.02 + 0.3 * i / count, head_dropout=0.05 + 0.5 * i / count)
            for i in range(count)]  # fmt: skip


def warm(data: Sequence[Data], config: RunConfig, workers: int) -> Engine:
    """Worker processes that have trained once."""
    splits = SharedSplits([each.arrays() for each in data])
    engine = ProcessEngine(splits, workers, max(1, (usable_cores() or 1) // workers))
    for key in range(workers):
        engine.submit(key, config.derive(epochs=1))
    while engine.free() < workers:
        engine.wait(0.1)
    return engine


def cases(args: argparse.Namespace, data: Sequence[Data], device: str) -> list[Case]:
    """Every engine that is compared."""
    cores = usable_cores() or 1
    [config] = configs_of(args, 1, device)
    alone: list[Case] = [
        ("one after the other", max(2, cores), lambda: SerialEngine(data, cores)),
        (f"{cores} processes", max(2, cores), lambda: warm(data, config, cores)),
    ]
    return alone + [(f"fused, K = {k}", k, lambda k=k: FusedEngine(data, cores, k)) for k in args.members]


def measure(args: argparse.Namespace, device: str = "cpu") -> dict[str, list[float]]:
    """Trials an hour of each case, by round."""
    [config] = configs_of(args, 1, device)
    data = load(config, resolve(config.dataset)[1])
    trials_an_hour(SerialEngine(data, usable_cores() or 1), [config.derive(epochs=1)])  # to warm up
    rates: dict[str, list[float]] = {}
    for number in range(args.rounds):
        for name, count, engine in cases(args, data, device):
            rates.setdefault(name, []).append(trials_an_hour(engine(), configs_of(args, count, device)))
            print(f"round {number + 1}/{args.rounds}, {name}: {rates[name][-1]:,.0f} trials an hour", flush=True)
    return rates


def rates_table(rates: dict[str, list[float]]) -> str:
    """A line a case; ratios are those of a round."""
    solo = rates["one after the other"]
    [processes] = [its for name, its in rates.items() if name.endswith("processes")]
    rows = [[name, Spread.of(its).show(0), _ratio(its, solo), _ratio(its, processes)] for name, its in rates.items()]
    return table(["trainings", "trials an hour", "over one after the other", "over processes"], rows)


def _ratio(its: Sequence[float], others: Sequence[float]) -> str:
    return Spread.of([a / b for a, b in zip(its, others, strict=True)]).show(2, "x")


def picture(rates: dict[str, list[float]], members: Sequence[int]) -> Figure:
    """Trials an hour against K."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, its in rates.items():
        if not name.startswith("fused"):
            axes.axhline(Spread.of(its).median, linestyle="--", label=name, color="0.3" if "one" in name else "0.6")
    spreads = [Spread.of(rates[f"fused, K = {k}"]) for k in members]
    low, high = [s.median - s.low for s in spreads], [s.high - s.median for s in spreads]
    axes.errorbar(members, [s.median for s in spreads], yerr=[low, high], marker="o", capsize=3, label="fused")
    axes.set(xscale="log", xlabel="members K", ylabel="trials an hour", ylim=(0, None))
    axes.set_xticks(members, map(str, members))
    axes.legend()
    return figure


def add_options(parser: argparse.ArgumentParser, members: Sequence[int], rounds: int) -> None:
    """Those of every benchmark of stacked trainings."""
    parser.add_argument("--model", choices=("small", "medium", "large"), default="small")
    parser.add_argument("--members", type=int, nargs="+", default=list(members))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="sample")
    add_save(parser)


def report(question: str, title: str, args: argparse.Namespace, device: str, extra: dict[str, Any]) -> None:
    """Measure, and say it."""
    hardware = describe(usable_cores() or 1, device)
    with Others() as others:
        rates = measure(args, device)
    line = (f"python -m benchmarks.{question} --model {args.model} --members {' '.join(map(str, args.members))} "
            f"--epochs {args.epochs} --rounds {args.rounds} --dataset {args.dataset}")  # fmt: skip
    what = (f"{args.model} network, {args.epochs} epochs a trial, {args.dataset}; medians [min-max], n = {args.rounds} "
            f"rounds. Other processes kept {others.cores:.2f} cores busy meanwhile.")  # fmt: skip
    parts = [*head(title, hardware, what, line), rates_table(rates)]
    record = {"model": args.model, "epochs": args.epochs, "trials_an_hour": rates, "others": others.cores, **extra}
    conclude(f"{question}-{args.model}", hardware, parts, record, args.save, picture(rates, args.members))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, (1, 2, 4, 8, 16, 32, 64), 3)
    report("fused", "Stacked trainings against solo ones and processes", parser.parse_args(), "cpu", {})


if __name__ == "__main__":
    main()
