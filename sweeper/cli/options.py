"""The options that several commands share, and the kinds of value they take."""

from __future__ import annotations

import functools
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from sweeper.core.errors import Interrupted, UsageError

PLACEMENTS: Final = ("none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic")
ENGINES: Final = ("auto", "serial", "processes", "gpu", "ray")
MAX_WORKERS: Final = 1_024
Command = Callable[..., Any]
EXP_HELP: Final = (
    "The article's experiment: 1 small plain, 2 medium plain, 3 medium augmented, 4 BatchNorm, 5 Dropout, 6 both, "
    "7 both augmented, 8 large, both, augmented."
)


class OrAuto(click.ParamType[Any]):
    """A value of another type, or the word auto, which is passed on as None."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """None for auto, else what the inner type makes of it."""
        return None if value == "auto" else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As --help shows it."""
        inner = self.inner.get_metavar(param, ctx) or self.inner.name.upper()
        return f"auto|{inner.strip('[]')}"


class EngineName(click.Choice[str]):
    """The name of an engine. `fused`, the former name of `gpu`, is accepted with a warning."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name that `EngineChoice` knows."""
        if value == "fused":
            click.echo("warning: --engine fused is now --engine gpu. Use the new name.", err=True)
            return "gpu"
        return super().convert(value, param, ctx)


class Split(click.Choice[str]):
    """The name of a split. `blog`, the former name of `test`, is accepted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name that `RunConfig` knows."""
        return super().convert("test" if value == "blog" else value, param, ctx)


class Number(click.FloatRange):
    """A finite number; click takes nan for a number within any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does it, but nan and inf are refused."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Experiment(click.ParamType[Any]):
    """The number of one of the study's eight experiments."""

    name = "experiment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; whatever is none of the eight is answered with a list of them."""
        from sweeper.core.experiments import EXPERIMENT_TITLES

        if str(value) not in map(str, EXPERIMENT_TITLES):
            listing = "; ".join(f"{n} {title}" for n, title in EXPERIMENT_TITLES.items())
            self.fail(f"{value!r} is no experiment; the eight are: {listing}", param, ctx)
        return int(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As --help shows it."""
        return "1-8"


class Experiments(click.ParamType[Any]):
    """Some of the study's eight experiments, such as 1,6-8."""

    name = "experiments"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers in ascending order; anything else is answered with a list of the eight."""
        from sweeper.replication.arms import parse_experiments

        try:
            return parse_experiments(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As --help shows it."""
        return "1,6-8"


class Duration(click.ParamType[Any]):
    """A time such as 90s, 30m or 2h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a number alone is seconds."""
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", str(value))
        if match is None:
            self.fail(f"{value!r}: a time such as 90s, 30m or 2h", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As --help shows it."""
        return "TIME"


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator; `--help` lists them in their order."""
    return lambda command: functools.reduce(lambda given, option: option(given), reversed(options), command)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that trains one configuration, or what is derived from one."""
    seed = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
                        help="Seed of weights, data order, augmentation, Dropout and search.")  # fmt: skip
    return machine(seed(tracked(command)))


def machine(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that trains: on what, and where."""
    return together(
        click.option("--dataset", type=click.Choice(["auto", "fashion-mnist", "sample"]), default="auto",
                     show_default=True, help="auto: FashionMNIST, found or downloaded, else the sample."),
        click.option("--data-dir", type=OrAuto(click.Path(path_type=Path)), default="auto", show_default=True,
                     metavar="auto|DIR", help="Folder of the four FashionMNIST files; auto: SWEEPER_DATA_DIR, the "
                     "cache, then Debian's package."),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]",
                     help="Device to train on."),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True,
                     help="auto: bf16 where it is faster than fp32."),
    )(command)  # fmt: skip


tracking_option = click.option(
    "--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI",
    help="MLflow server or database; offline: journal only; none: record nothing. SWEEPER_OFFLINE=1 means offline. "
    "[env: MLFLOW_TRACKING_URI; default: mlflow.db in SWEEPER_HOME]",
)  # fmt: skip
storage_option = click.option(
    "--storage", envvar="SWEEPER_STORAGE", metavar="URL",
    help="Study database, sqlite or PostgreSQL. [env: SWEEPER_STORAGE; default: sweeper.db in SWEEPER_HOME]",
)  # fmt: skip
json_option = click.option("--json", "json_output", is_flag=True, help="Print one JSON object as the last line.")


def tracked(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that records runs."""
    return tracking_option(json_option(command))


def overrides(command: Callable[..., Any]) -> Callable[..., Any]:
    """Fields of a run that replace those of the experiment."""
    rate = Number(0, 1, max_open=True)
    return together(
        click.option("--epochs", type=OrAuto(click.IntRange(1)), default="auto", show_default=True,
                     help="Passes over the training images."),
        click.option("--batch-size", type=OrAuto(click.IntRange(1)), default="auto", show_default=True,
                     help="Images in an optimizer step."),
        click.option("--placement", type=OrAuto(click.Choice(PLACEMENTS)), default="auto", show_default=True,
                     help="Placement of BatchNorm and Dropout."),
        click.option("--conv-dropout", type=OrAuto(rate), default="auto", show_default=True,
                     help="Dropout rate in the convolutional part."),
        click.option("--head-dropout", type=OrAuto(rate), default="auto", show_default=True,
                     help="Dropout rate in the head."),
        click.option("--lr", type=OrAuto(Number(0, min_open=True)), default="auto", show_default=True,
                     help="Peak learning rate."),
    )(command)  # fmt: skip


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that trains many configurations: how, and how many at a time."""
    return together(
        click.option("--workers", type=OrAuto(click.IntRange(1, MAX_WORKERS)), default="auto", show_default=True,
                     help="Number of trainings at a time. auto: one worker process, which makes a sweep repeatable; "
                     "on a GPU or on Ray, as many as fit."),
        click.option("--engine", "engine", type=EngineName(ENGINES), metavar="|".join(ENGINES), default="auto",
                     show_default=True,
                     help="serial: in this process; processes: in worker processes; gpu: side by side on one GPU; "
                     "ray: on a Ray cluster; auto: gpu on a GPU, else processes."),
        click.option("--address", metavar="auto|HOST:PORT",
                     help="Ray cluster that this machine belongs to, for --engine ray. [default: one is started here]"),
        click.option("--cpus-per-trial", type=Number(0, MAX_WORKERS, min_open=True), default=1, show_default=True,
                     help="CPUs that Ray reserves for a training."),
        click.option("--gpus-per-trial", type=Number(0, MAX_WORKERS), default=0, show_default=True,
                     help="GPUs, or a part of one, that Ray reserves for a training."),
    )(command)  # fmt: skip


def ends_unread(command: Callable[..., None]) -> Callable[..., None]:
    """A command that, where nobody reads any more, ends as SIGPIPE ends others: it has not done all it was to do."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:
            raise Interrupted(signal.SIGPIPE) from None

    return run


MAX_TRIALS: Final = 1_000_000
MAX_SEEDS: Final = 1_000


def refuse(why: str, *names: str) -> None:
    """Options that would not be read shall not be passed over in silence."""
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{given[0]}: {why}")
