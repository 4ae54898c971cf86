"""How much faster is `sweeper.train` than the stock recipe on the same work, and does it learn as well?

One pair trains the same network on the same images with the same seed, once by each side, one
after the other, each in a process of its own; the side that goes first alternates. Measured are:

- wall seconds of a whole training: the weights are drawn, each epoch is trained and evaluated.
  Start-up of the process, imports, reading the data, and a first optimizer step on a toy network
  (it imports 900 modules of torch) come before and are reported apart;
- training images per second: images of all epochs over the seconds of their training passes;
- the ratio of the two sides within each pair;
- validation accuracy after the last epoch, and its paired difference with a 95 % t interval;
- GFLOP/s of the convolutions and linear layers in the training passes, and their share of the
  fastest matrix product in the side's precision on the same threads;
- cores that other processes kept busy meanwhile: on a machine that is not idle, repeat.

`python -m benchmarks.train_throughput --output page.md`
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.hardware import THREADS, Others, describe
from benchmarks.pages import Spread, hardware_table, table, write
from sweeper.core.config import Placement, RunConfig
from sweeper.core.errors import SweeperError
from sweeper.core.images import SIDE
from sweeper.data.fashion import MANIFESTS, DatasetName, resolve
from sweeper.training.device import resolve_precision, use_threads
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train
from sweeper.training.network import build_model

ROOT: Final = Path(__file__).parents[1]
SIDES: Final = ("stock", "sweeper")
MODELS: Final = ("small", "medium", "large")


# --- one training, in a process of its own -------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training of one side."""

    wall_s: float
    epoch_s: tuple[float, ...]  # training passes
    val_accuracy: float
    startup_s: float = 0.0  # life of the process outside `wall_s`: its parent knows this and the next
    others: float = 0.0  # cores that other processes kept busy meanwhile

    def images_per_s(self, images: int) -> float:
        """Training images per second, where an epoch has `images`."""
        return images * len(self.epoch_s) / sum(self.epoch_s)


def train_once(side: str, config: RunConfig, workers: int) -> Run:
    """Train in this process; the clock starts when everything is imported and the images are in memory."""
    train_side = _import_side(side, workers)
    [data] = load(config, resolve(config.dataset)[1])
    _first_step()
    start = perf_counter()
    epoch_s, accuracy = train_side(config, data)
    return Run(perf_counter() - start, tuple(epoch_s), accuracy)


TrainSide = Callable[[RunConfig, Data], tuple[Sequence[float], float]]  # to seconds of each epoch, accuracy


def _import_side(side: str, workers: int) -> TrainSide:
    if side == "sweeper":
        use_threads(THREADS)  # as each process of ours that trains
        return _train_sweeper
    torch.set_num_threads(THREADS)
    from benchmarks.stock_recipe import run  # imports torchvision, which only this side needs

    def train_stock(config: RunConfig, data: Data) -> tuple[Sequence[float], float]:
        result = run(config, data, workers)
        return result.epoch_s, result.val_accuracy

    return train_stock


def _train_sweeper(config: RunConfig, data: Data) -> tuple[Sequence[float], float]:
    history = finish(train(config, data)).history
    return [epoch.epoch_s for epoch in history], history[-1].val_accuracy


def _first_step() -> None:
    """Let torch import what it puts off until a process makes its first optimizer step."""
    layer = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.step()


def train_apart(side: str, config: RunConfig, workers: int) -> Run:
    """Train in a fresh process, and wait for it."""
    command = [sys.executable, "-m", "benchmarks.train_throughput", "--side", side, "--workers", str(workers)]
    command += ["--config", config.model_dump_json()]
    start = perf_counter()
    with Others() as others:
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    alive_s = perf_counter() - start
    fields = json.loads(done.stdout.splitlines()[-1])
    run = Run(**fields | {"epoch_s": tuple(fields["epoch_s"])})
    return replace(run, startup_s=alive_s - run.wall_s, others=others.cores)


# --- all trainings -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Both sides of one configuration."""

    model: str
    seed: int
    stock: Run
    sweeper: Run


def plan(models: Sequence[str], seeds: int) -> list[tuple[str, int, tuple[str, str]]]:
    """Model, seed and order of the sides, for each pair: every model once before any comes again."""
    cells = [(model, seed) for seed in range(seeds) for model in models]
    return [(m, s, SIDES if (models.index(m) + s) % 2 == 0 else SIDES[::-1]) for m, s in cells]


def measure(base: RunConfig, models: Sequence[str], seeds: int, workers: int) -> Iterator[Pair]:
    """Train each pair, printing a line for each training."""
    total = 2 * len(models) * seeds
    taken: dict[tuple[str, str], list[float]] = {(model, side): [] for side in SIDES for model in models}
    for model, seed, order in plan(models, seeds):
        runs = {}
        for side in order:
            run = runs[side] = train_apart(side, base.derive(model=model, seed=seed), workers)
            taken[model, side].append(run.wall_s + run.startup_s)
            done = sum(map(len, taken.values()))
            print(f"[{done}/{total}] {model} seed {seed} {side}: {run.wall_s:.1f} s, "
                  f"accuracy {run.val_accuracy:.4f}, others {run.others:.2f} cores; "
                  f"{_time_left(taken, seeds)}", flush=True)  # fmt: skip
        yield Pair(model, seed, runs["stock"], runs["sweeper"])


def _time_left(taken: dict[tuple[str, str], list[float]], seeds: int) -> str:
    """The trainings to come, each at the mean of its like, or of all while none of its like has run."""
    overall = statistics.fmean(s for seconds in taken.values() for s in seconds)
    left = sum((seeds - len(s)) * (statistics.fmean(s) if s else overall) for s in taken.values())
    return f"about {left / 60:.1f} min left"


# --- what they show ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """One side on one model; `share` is of the measured peak of `precision`."""

    precision: str
    wall_s: Spread
    images_per_s: Spread
    gflops: Spread
    share: float
    startup_s: Spread
    others: Spread


@dataclass(frozen=True)
class Comparison:
    """Both sides on one model; the ratios are those of pairs, above 1 where sweeper is faster."""

    model: str
    pairs: int
    stock: Speed
    sweeper: Speed
    wall_ratio: Spread
    images_ratio: Spread
    stock_accuracy: list[float]
    sweeper_accuracy: list[float]
    accuracy_difference: float  # sweeper minus stock, mean over pairs
    accuracy_interval: tuple[float, float] | None  # 95 %; None for a single pair


def compare(pairs: Sequence[Pair], config: RunConfig, peaks: dict[str, float]) -> Comparison:
    """Summarise the pairs of one model, whose configuration is `config`."""
    images = train_images(config.dataset)
    stock, sweeper = [p.stock for p in pairs], [p.sweeper for p in pairs]
    differences = [p.sweeper.val_accuracy - p.stock.val_accuracy for p in pairs]
    return Comparison(
        model=config.model,
        pairs=len(pairs),
        stock=_speed(stock, config, "fp32", peaks),
        sweeper=_speed(sweeper, config, config.precision, peaks),
        wall_ratio=Spread.of([p.stock.wall_s / p.sweeper.wall_s for p in pairs]),
        images_ratio=Spread.of([p.sweeper.images_per_s(images) / p.stock.images_per_s(images) for p in pairs]),
        stock_accuracy=[run.val_accuracy for run in stock],
        sweeper_accuracy=[run.val_accuracy for run in sweeper],
        accuracy_difference=statistics.fmean(differences),
        accuracy_interval=t_interval(differences),
    )


def _speed(runs: Sequence[Run], config: RunConfig, precision: str, peaks: dict[str, float]) -> Speed:
    rates = [run.images_per_s(train_images(config.dataset)) for run in runs]
    flops = training_flops(config)
    gflops = Spread.of([rate * flops / 1e9 for rate in rates])
    return Speed(
        precision=precision,
        wall_s=Spread.of([run.wall_s for run in runs]),
        images_per_s=Spread.of(rates),
        gflops=gflops,
        share=gflops.median / peaks[precision],
        startup_s=Spread.of([run.startup_s for run in runs]),
        others=Spread.of([run.others for run in runs]),
    )


def train_images(dataset: DatasetName) -> int:
    """Images in an epoch of the holdout split."""
    manifest = MANIFESTS[dataset]
    return manifest.train[0].shape[0] - manifest.holdout


def training_flops(config: RunConfig) -> int:
    """Operations that convolutions and linear layers need to train on one image; a multiply-add is two.

    Three times the forward pass, one for each of output, input gradient and weight gradient;
    the first layer needs no input gradient.
    """
    forward: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        forward.append(2 * layer.weight[0].numel() * output[0, 0].numel() * output.shape[1])

    model = build_model(config).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 1, SIDE, SIDE))
    return 3 * sum(forward) - forward[0]


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval for the mean of paired differences; None for fewer than two."""
    from scipy import stats

    n = len(differences)
    if n < 2:
        return None
    mean = statistics.fmean(differences)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


# --- the page ------------------------------------------------------------------------------------


def speed_table(comparisons: Sequence[Comparison]) -> str:
    header = [
        "model",
        "side",
        "precision",
        "wall, s",
        "training images/s",
        "GFLOP/s",
        "of peak",
        "start-up, s",
        "others, cores",
    ]
    rows = [
        [c.model, side, s.precision, s.wall_s.show(2), s.images_per_s.show(0), s.gflops.show(1), f"{s.share:.0%}",
         s.startup_s.show(1), s.others.show(2)]
        for c in comparisons for side, s in (("stock", c.stock), ("sweeper", c.sweeper))
    ]  # fmt: skip
    return table(header, rows)


def ratio_table(comparisons: Sequence[Comparison]) -> str:
    header = ["model", "pairs", "wall, stock / sweeper", "images/s, sweeper / stock"]
    return table(header, [[c.model, str(c.pairs), c.wall_ratio.show(2, "x"), c.images_ratio.show(2, "x")]
                          for c in comparisons])  # fmt: skip


def accuracy_table(comparisons: Sequence[Comparison]) -> str:
    header = ["model", "stock, by seed", "sweeper, by seed", "sweeper minus stock, mean [95 % t interval]"]
    rows = [[c.model, _listing(c.stock_accuracy), _listing(c.sweeper_accuracy), _difference(c)] for c in comparisons]
    return table(header, rows)


def _listing(accuracies: Sequence[float]) -> str:
    return " ".join(f"{accuracy:.4f}" for accuracy in accuracies)


def _difference(c: Comparison) -> str:
    if c.accuracy_interval is None:
        return f"{c.accuracy_difference:+.4f} [one pair: none]"
    low, high = c.accuracy_interval
    return f"{c.accuracy_difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def command_line(args: argparse.Namespace) -> str:
    """The command that repeats the measurement."""
    names = ("seeds", "epochs", "dataset", "batch_size", "placement", "workers")
    options = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in names]
    return " ".join(["python -m benchmarks.train_throughput --models", ",".join(args.models), *options])


def page(args: argparse.Namespace, hardware: dict[str, Any], comparisons: Sequence[Comparison]) -> str:
    """The whole measurement as Markdown."""
    parts = [
        "# Training throughput: the stock recipe against sweeper",
        _what(args, hardware),
        f"`{command_line(args)}`",
        ratio_table(comparisons),
        speed_table(comparisons),
        "Validation accuracy after the last epoch. A seed is the same number on both sides, and draws other weights\n"
        "and another order of the images on each.",
        accuracy_table(comparisons),
        _notes(args, hardware),
        hardware_table(hardware),
    ]
    return "\n\n".join(parts) + "\n"


def _what(args: argparse.Namespace, hardware: dict[str, Any]) -> str:
    config = base_config(args)
    holdout = MANIFESTS[config.dataset].holdout
    return "\n".join(
        [
            f"Pairs a model, one a seed: n = {args.seeds}. Values are medians [min-max] over them. {hardware['date']},",
            f"{hardware['cpu']}, {THREADS} torch threads a side.",
            f"Epochs: {config.epochs}; training images: {train_images(config.dataset):,}; validation images:",
            f"{holdout:,} ({config.dataset}); batch size: {config.batch_size}; shifted and mirrored;",
            f"placement {config.placement}; learning rate: {config.lr}, constant.",
        ]
    )


def _notes(args: argparse.Namespace, hardware: dict[str, Any]) -> str:
    holdout = MANIFESTS[args.dataset].holdout
    return "\n".join(
        [
            "Wall is a whole training with its evaluations. Start-up, imports and reading the data come before it",
            f"and are in no ratio. The stock side evaluates {holdout:,} images an epoch; sweeper evaluates",
            f"{2 * holdout:,}, as it also judges training images. The stock side has {args.workers} worker processes",
            f"besides its threads, on {hardware['usable_cores']} cores. GFLOP/s counts the convolutions and linear",
            "layers in the training passes; its share is of the matmul peak in the same precision, measured before",
            "the first pair. Others are the cores that other processes kept busy meanwhile: above 0.1 or so they",
            "have disturbed the measurement.",
        ]
    )


# --- the command ---------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_throughput", description="The stock recipe against sweeper, in pairs."
    )
    parser.add_argument("--models", type=_models, default=list(MODELS), help="comma-separated: small,medium,large")
    parser.add_argument("--seeds", type=_positive, default=5, help="pairs a model")
    parser.add_argument("--epochs", type=_positive, default=3)
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="sample")
    parser.add_argument("--batch-size", type=_positive, default=128)
    parser.add_argument("--placement", choices=[p.value for p in Placement], default="bn")
    parser.add_argument("--workers", type=_whole, default=2, help="loader processes of the stock side; 0 for none")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write a Markdown page")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # the process of one training
    parser.add_argument("--config", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.output and not args.output.absolute().parent.is_dir():
        parser.error(f"--output: {args.output.parent} is not a folder")
    return args


def _models(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in MODELS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; the models are {', '.join(MODELS)}")
    return names


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError("0 is too few")
    return int(text)


def base_config(args: argparse.Namespace) -> RunConfig:
    """What all trainings share; the model and the seed vary."""
    return RunConfig.create(
        placement=args.placement,
        augmentation="crop-flip",
        epochs=args.epochs,
        dataset=args.dataset,
        batch_size=args.batch_size,
        precision=resolve_precision("auto", "cpu"),
    )


def benchmark(args: argparse.Namespace) -> None:
    """Measure all pairs, print the tables and the JSON, and write the page."""
    base = base_config(args)
    load(base, resolve(args.dataset)[1])  # once here, so that a missing data set is noticed, or downloaded, now
    hardware = describe()
    pairs = list(measure(base, args.models, args.seeds, args.workers))
    comparisons = [
        compare([p for p in pairs if p.model == model], base.derive(model=model), hardware["matmul_gflops"])
        for model in args.models
    ]
    print("", ratio_table(comparisons), speed_table(comparisons), accuracy_table(comparisons), "", sep="\n\n")
    if args.output:
        write(args.output, page(args, hardware, comparisons))
    record = {"command": command_line(args), "hardware": hardware, "models": [asdict(c) for c in comparisons]}
    print(json.dumps(record | {"pairs": [asdict(p) for p in pairs]}))


def main() -> None:
    args = parse_args()
    try:
        if args.side:
            print(json.dumps(asdict(train_once(args.side, RunConfig.model_validate_json(args.config), args.workers))))
        else:
            benchmark(args)
    except SweeperError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"a training ended with status {error.returncode}; what it said stands above")


if __name__ == "__main__":
    main()
