"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from sweeper.core.errors import Interrupted, UsageError

PLACEMENTS: Final = (
    "none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic", "bn-dropout-last", "bn-dropout-add",
    "bn-pool-dropout",
)  # fmt: skip
ENGINES: Final = ("auto", "serial", "processes", "gpu", "ray")
MAX_WORKERS: Final = 1_024
MAX_TRIALS: Final = 1_000_000
MAX_SEEDS: Final = 1_000
Command = Callable[..., Any]
EXP_HELP: Final = (
    "The article's experiment: 1 small plain, 2 medium plain, 3 medium augmented, 4 BatchNorm, 5 Dropout, 6 both, "
    "7 both augmented, 8 large, both, augmented."
)


class OrAuto(click.ParamType[Any]):
    """A value of another type, or the word auto, which becomes None."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return None for auto, else the value as the inner type converts it."""
        return None if value == "auto" else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the name of the value in --help."""
        inner = self.inner.get_metavar(param, ctx) or self.inner.name.upper()
        return f"auto|{inner.strip('[]')}"


class EngineName(click.Choice[str]):
    """The name of an engine. `fused`, the former name of `gpu`, is accepted with a warning."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the present name."""
        if value == "fused":
            click.echo("warning: --engine fused is now --engine gpu. Use the new name.", err=True)
            return "gpu"
        return super().convert(value, param, ctx)


class Split(click.Choice[str]):
    """The name of a split. `blog`, the former name of `test`, is accepted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the present name."""
        return super().convert("test" if value == "blog" else value, param, ctx)


class Number(click.FloatRange):
    """A finite number. Click alone accepts nan within any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and inf."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Dataset(click.ParamType[Any]):
    """The name of a data set."""

    name = "dataset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name with absolute paths; `auto` stays."""
        from sweeper.core.dataset import check_dataset

        try:
            return "auto" if value == "auto" else check_dataset(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Experiment(click.ParamType[Any]):
    """The number of one of the article's eight experiments."""

    name = "1-8"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with a list of the eight."""
        from sweeper.core.experiments import EXPERIMENT_TITLES

        if str(value) not in map(str, EXPERIMENT_TITLES):
            listing = "; ".join(f"{n} {title}" for n, title in EXPERIMENT_TITLES.items())
            self.fail(f"{value!r} is not an experiment. The eight are: {listing}.", param, ctx)
        return int(value)


class Experiments(click.ParamType[Any]):
    """Numbers of the article's eight experiments, such as 1,6-8."""

    name = "1,6-8"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers in ascending order, or fail with a list of the eight."""
        from sweeper.replication.arms import parse_experiments

        try:
            return parse_experiments(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class ModelArgument(click.ParamType[Any]):
    """An argument of the network's factory, such as width=32."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the name, and the value as a number, a truth value or a quoted string if it is one, else as text."""
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r} is not NAME=VALUE, such as width=32", param, ctx)
        try:
            found = json.loads(text, parse_constant=str)
        except ValueError:
            return name, text
        return name, found if isinstance(found, bool | int | float | str) else text


class Varied(click.ParamType[Any]):
    """A dimension of a search space, such as lr=1e-4..1e-2:log."""

    name = "NAME=VALUES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name of the field, and its values as text."""
        name, equals, text = str(value).partition("=")
        if not equals or not text:
            self.fail(f"{value!r} is not NAME=VALUES, such as lr=1e-4..1e-2:log or placement=bn,bn-dropout", param, ctx)
        return name.replace("-", "_"), text


class Duration(click.ParamType[Any]):
    """A time such as 90s, 30m or 2h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, which is also the unit of a number alone."""
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a time such as 90s, 30m or 2h", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Join several options into one decorator; `--help` lists them in their order."""
    return lambda command: functools.reduce(lambda given, option: option(given), reversed(options), command)


def or_auto(name: str, kind: click.ParamType[Any], help_text: str, metavar: str | None = None) -> Callable[..., Any]:
    """An option that takes a value of `kind`, or auto, which is the default and becomes None."""
    return click.option(name, type=OrAuto(kind), default="auto", metavar=metavar, help=help_text)


def given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the options that have a value, as fields of a configuration. A device that is `auto` has none."""
    return {name: options[name] for name in names if options[name] not in (None, "auto")}


data_dir_option = or_auto(
    "--data-dir", click.Path(path_type=Path), "Folder of the four FashionMNIST files, or torchvision's root, as for "
    "mnist to svhn; auto: SWEEPER_DATA_DIR, the cache, then Debian's package.", metavar="auto|DIR",
)  # fmt: skip


dataset_options = together(
    click.option("--dataset", type=Dataset(), default="auto", metavar="auto|NAME|folder:DIR|FILE.npz|FUNCTION",
                 help="Images: fashion-mnist, sample, mnist, kmnist, cifar10, cifar100, svhn; folder:DIR of pictures, "
                 "a folder a class; FILE.npz of x_train, y_train, x_test and y_test; or a function that returns these, "
                 "package.module:function or file.py:function. auto: FashionMNIST, found or downloaded, else the "
                 "sample."),
    click.option("--image-size", type=click.IntRange(8, 256), metavar="N",
                 help="Side to which the pictures of folder:DIR are resized. [default: their most frequent size]"),
)  # fmt: skip
device_option = click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Device to train on.")


article_dataset_option = click.option(
    "--dataset", type=click.Choice(["auto", "fashion-mnist", "sample"]), default="auto",
    help="auto: FashionMNIST, found or downloaded, else the sample.",
)  # fmt: skip
moved_option = click.option(
    "--dataset", type=Dataset(), metavar="NAME|folder:DIR|FILE.npz|FUNCTION",
    help="The images, if they have moved; they must have the recorded SHA-256. [default: those that are recorded]",
)  # fmt: skip


def machine(command: Command) -> Command:
    """Add the options of every command that trains: the folder of the data set, device and precision."""
    return together(
        data_dir_option,
        device_option,
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto",
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
system_metrics_option = click.option(
    "--system-metrics", is_flag=True,
    help="Record the load of this machine's processor and memory at each epoch, for MLflow's System metrics tab.",
)  # fmt: skip
json_option = click.option("--json", "json_output", is_flag=True, help="Print one JSON object as the last line.")


def tracked(command: Command) -> Command:
    """Add the options of every command that records runs."""
    return tracking_option(json_option(command))


def shared(command: Command) -> Command:
    """Add the options of a command that trains one configuration, or variants of one."""
    seed = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0,
                        help="Seed of weights, data order, augmentation, Dropout and search.")  # fmt: skip
    return dataset_options(machine(seed(tracked(command))))


def field_options(command: Command) -> Command:
    """Add an option for each field of the configuration that an experiment sets, except its split and seed."""
    rate = Number(0, 1, max_open=True)
    return together(
        or_auto("--model", click.STRING, "Network: one of ours, or the function of your own that builds one.",
                metavar="auto|small|medium|large|resnet20|FILE.py:FUNCTION|PACKAGE.MODULE:FUNCTION"),
        click.option("--model-arg", "model_args", type=ModelArgument(), multiple=True,
                     help="Argument of the function that builds the network; may be repeated."),
        or_auto("--placement", click.Choice(PLACEMENTS), "Placement of BatchNorm and Dropout."),
        or_auto("--conv-dropout", rate, "Dropout rate in the convolutional part."),
        or_auto("--head-dropout", rate, "Dropout rate in the head."),
        or_auto("--dropout-schedule", click.Choice(["constant", "early", "late"]),
                "Epochs in which Dropout acts: all, the first --dropout-switch, or those after them."),
        or_auto("--dropout-switch", click.IntRange(1), "Number of epochs after which Dropout starts or stops."),
        or_auto("--epochs", click.IntRange(1), "Passes over the training images."),
        or_auto("--batch-size", click.IntRange(1), "Images in an optimizer step."),
        or_auto("--lr", Number(0, min_open=True), "Peak learning rate."),
        or_auto("--schedule", click.Choice(["constant", "cosine", "onecycle"]), "Learning rate over the run."),
        or_auto("--weight-decay", Number(0), "AdamW's decoupled decay of weight matrices and kernels."),
        or_auto("--augmentation", click.Choice(["none", "crop", "crop-flip", "crop-flip-erase"]),
                "Augmentation of the training images. crop: shift by up to 2 pixels of 28, an eighth of the side from "
                "32 on; crop-flip: also mirror half; crop-flip-erase: also set a rectangle of 1.5 to 35 % of half of "
                "them to black."),
        or_auto("--train-images", click.IntRange(1), "Number of images to train on, of those that the split leaves; "
                "auto: all."),
    )(command)  # fmt: skip


FIELDS: Final = (
    "model", "placement", "conv_dropout", "head_dropout", "dropout_schedule", "dropout_switch", "epochs", "batch_size",
    "lr", "schedule", "weight_decay", "augmentation", "train_images", "seed", "device",
)  # fmt: skip
folds_option = click.option(
    "--folds", type=click.IntRange(0, 100), default=0,
    help="Number of stratified cross-validation folds; 0: one validation set.",
)  # fmt: skip


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that a command line gives."""
    fields = given(options, *FIELDS)
    if options["folds"]:
        fields |= {"split": "folds", "folds": options["folds"]}
    return fields | {f"model.{name}": value for name, value in options["model_args"]}


def engine_options(command: Command) -> Command:
    """Add the options of a command that trains many configurations: the engine, and how many at a time."""
    return together(
        or_auto("--workers", click.IntRange(1, MAX_WORKERS), "Number of trainings at a time. auto: one worker process, "
                "which makes a sweep repeatable; on a GPU or on Ray, as many as fit."),
        click.option("--engine", "engine", type=EngineName(ENGINES), metavar="|".join(ENGINES), default="auto",
                     help="serial: in this process; processes: in worker processes; gpu: side by side on one GPU; "
                     "ray: on a Ray cluster; auto: gpu on a GPU, else processes."),
        click.option("--address", metavar="auto|HOST:PORT",
                     help="Ray cluster that this machine belongs to, for --engine ray. [default: one is started here]"),
        click.option("--cpus-per-trial", type=Number(0, MAX_WORKERS, min_open=True), default=1,
                     help="CPUs that Ray reserves for a training."),
        click.option("--gpus-per-trial", type=Number(0, MAX_WORKERS), default=0,
                     help="GPUs, or a part of one, that Ray reserves for a training."),
    )(command)  # fmt: skip


def ends_unread(command: Command) -> Command:
    """End a command as SIGPIPE would when nobody reads its output any more: it has not finished its work."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:
            raise Interrupted(signal.SIGPIPE) from None

    return run


def refuse(why: str, *names: str) -> None:
    """Refuse those of the options `names` that are on the command line, which would otherwise be ignored."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")
