"""The options that several commands share, in groups."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from sweeper.cli.command import Command, Decorator, general, group
from sweeper.cli.values import Count, Dataset, EngineName, Experiment, ModelArgument, Number, OrAuto
from sweeper.core.errors import Interrupted

if TYPE_CHECKING:
    from sweeper.replication.article import Article

PLACEMENTS: Final = (
    "none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic", "bn-dropout-last", "bn-dropout-add",
    "bn-pool-dropout",
)  # fmt: skip
ENGINES: Final = ("auto", "serial", "processes", "gpu", "ray")
ARTICLES: Final = ("learnopencv", "chen2019", "kim2023", "liu2023", "wu2021")
PROTOCOLS: Final = ("full", "quick", "quick-6")
AUGMENTATIONS: Final = ("none", "crop", "crop-flip", "crop-flip-erase")
MAX_WORKERS: Final = 1_024
MAX_TRIALS: Final = 1_000_000
MAX_SEEDS: Final = 1_000
PATH: Final[click.Path] = click.Path(path_type=Path)
FILE: Final[click.Path] = click.Path(path_type=Path, dir_okay=False)
FIELDS: Final = (
    "model", "placement", "conv_dropout", "head_dropout", "dropout_schedule", "dropout_switch", "epochs", "batch_size",
    "lr", "schedule", "weight_decay", "augmentation", "train_images", "seed", "device",
    "dataset", "image_size",
)  # fmt: skip
# The values of experiment 6, the default, for --help, which loads nothing.
USUAL: Final = {
    "model": "medium", "placement": "bn-dropout", "conv_dropout": 0.1, "head_dropout": 0.3, "epochs": 20,
    "batch_size": 128, "lr": 0.001, "schedule": "cosine", "weight_decay": 0, "augmentation": "none",
}  # fmt: skip
SEARCHED: Final = ("placement", "conv_dropout", "head_dropout", "batch_size")


def or_auto(
    name: str, kind: click.ParamType[Any], help_text: str, default: str, metavar: str | None = None
) -> Callable[..., Any]:
    """Return an option that takes a value of `kind`, or auto, which becomes None; `default` describes auto."""
    return click.option(name, type=OrAuto(kind), default="auto", metavar=metavar, show_default=False,
                        help=f"{help_text} [default: {default}]")  # fmt: skip


def given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the options that have a value, as configuration fields; `auto` is no value."""
    return {name: options[name] for name in names if options[name] not in (None, "auto")}


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration fields that are given on the command line."""
    fields = given(options, *(name for name in FIELDS if name in options))
    if options.get("folds"):
        fields |= {"split": "folds", "folds": options["folds"]}
    return fields | {f"model.{name}": value for name, value in options["model_args"]}


def _usual(name: str) -> str:
    return "none" if name == "model" else str(USUAL[name])


def network_options(own: Callable[[str], str] = _usual, *, placed: bool = True) -> tuple[Decorator, ...]:
    """Return the options of a network and its batches.

    Args:
        own: returns the default of a field in words.
        placed: include the placement and its rates.
    """
    return (
        or_auto("--model", click.STRING, "Network: small, medium, large, resnet20, or a function that builds one, "
                "package.module:function or file.py:function.", own("model"), "NAME|FUNCTION"),
        click.option("--model-arg", "model_args", type=ModelArgument(), multiple=True,
                     help="Argument for that function. May be repeated."),
        *(_placement_options(own) if placed else ()),
        or_auto("--batch-size", Count(1), "Images per optimizer step.", own("batch_size")),
        or_auto("--augmentation", click.Choice(AUGMENTATIONS), "Augmentation of the training images. none; crop: "
                "random shift by up to 2 pixels for sides of 28, else an eighth of the side; crop-flip: also mirror "
                "half of them; crop-flip-erase: also black out a rectangle of 1.5 to 35 % in half of them.",
                own("augmentation"), "KIND"),
    )  # fmt: skip


def _placement_options(own: Callable[[str], str]) -> tuple[Decorator, ...]:
    rate = Number(0, 1, max_open=True)
    return (
        or_auto("--placement", click.Choice(PLACEMENTS), "Placement of BatchNorm and Dropout: "
                f"{', '.join(PLACEMENTS)}. The last three need residual blocks.", own("placement"), "PLACEMENT"),
        or_auto("--conv-dropout", rate, "Dropout rate in the convolutional part.", own("conv_dropout")),
        or_auto("--head-dropout", rate, "Dropout rate in the head.", own("head_dropout")),
        or_auto("--dropout-schedule", click.Choice(["constant", "early", "late"]), "Epochs with Dropout: all, the "
                "first --dropout-switch, or all later ones.", "constant"),
        or_auto("--dropout-switch", Count(1), "Epochs after which Dropout starts or stops.", "none"),
    )  # fmt: skip


def field_options(*, searched: bool = False, asked: bool = False) -> tuple[Decorator, ...]:
    """Return an option for each field of the configuration that an experiment sets, except its split.

    With `searched`, `--help` says which of them the default search space varies. With `asked`, fields that `sweeper
    advise` decides are left out.
    """

    def own(name: str) -> str:
        if asked and name == "epochs":
            return "until the plain network overfits, at most 30"
        return "searched" if searched and name in SEARCHED else f"the experiment's, {USUAL[name]}"

    return (
        click.option("--exp", type=Experiment(), default=6,
                     help="Article experiment to start from: 1 small plain, 2 medium plain, 3 medium augmented, "
                     "4 BatchNorm, 5 Dropout, 6 both, 7 both augmented, 8 large, both, augmented. Other options "
                     "override it."),
        *network_options(own, placed=not asked),
        or_auto("--epochs", Count(1), "Passes over the training images.", own("epochs")),
        or_auto("--lr", Number(0, min_open=True), "Peak learning rate.", own("lr")),
        or_auto("--schedule", click.Choice(["constant", "cosine", "onecycle"]), "Learning-rate schedule.",
                own("schedule")),
        or_auto("--weight-decay", Number(0), "AdamW's decoupled decay of weight matrices and kernels.",
                own("weight_decay")),
        click.option("--seed", type=Count(0, 2**31 - 1), default=0,
                     help="Seed for weights, data order, augmentation, Dropout and search."),
    )  # fmt: skip


folds_option = click.option(
    "--folds", type=Count(0, 100), default=0, help="Stratified cross-validation folds; 0: one validation set.",
)  # fmt: skip
device_option = click.option("--device", default="auto", metavar="cpu|cuda[:N]", show_default=False,
                             help="Device to run on. [default: cuda if there is one, else cpu]")  # fmt: skip
precision_option = click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", metavar="[fp32|bf16]",
    show_default=False,
    help="Precision of convolutions and matrix products. [default: bf16 where it is faster than fp32]",
)  # fmt: skip
data_dir_option = or_auto(
    "--data-dir", PATH, "Folder with FashionMNIST's four files, or torchvision's root; mnist to svhn need the latter.",
    "SWEEPER_DATA_DIR, the cache, then Debian's package", "DIR",
)  # fmt: skip
image_options: Final = (
    click.option("--dataset", type=Dataset(), default="auto", metavar="NAME|FILE|FUNCTION", show_default=False,
                 help="Images: fashion-mnist, sample, mnist, kmnist, cifar10, cifar100, svhn; folder:DIR of pictures, "
                 "one folder per class; FILE.npz with x_train, y_train, x_test and y_test; or a function that returns "
                 "these, package.module:function or file.py:function. [default: fashion-mnist if found or "
                 "downloaded, else sample]"),
    click.option("--image-size", type=Count(8, 256), metavar="N",
                 help="Side to which the pictures of folder:DIR are resized. [default: their most frequent size]"),
    data_dir_option,
)  # fmt: skip
data_options: Final = (
    *image_options,
    or_auto("--train-images", Count(1), "Number of training images to use, after the split.", "all"),
)
article_options: Final = (
    click.option("--article", type=click.Choice(ARTICLES), default=ARTICLES[0], metavar="NAME",
                 help=f"Article: {', '.join(ARTICLES)}."),
    click.option("--claims", "claims_file", type=FILE, metavar="FILE",
                 help="A claims file of your own, in place of an article."),
)  # fmt: skip
article_dataset_option = click.option(
    "--dataset", type=click.Choice(["auto", "fashion-mnist", "sample"]), default="auto", show_default=False,
    metavar="[fashion-mnist|sample]", help="Images. [default: fashion-mnist if found or downloaded, else sample]",
)  # fmt: skip
moved_option = click.option(
    "--dataset", type=Dataset(), metavar="NAME|FILE|FUNCTION",
    help="Where the images are now; their SHA-256 must match the run's. [default: as recorded]",
)  # fmt: skip

tracking_option = click.option(
    "--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI",
    help="MLflow server or database; offline: journal only; none: record nothing. SWEEPER_OFFLINE=1 means offline. "
    "[env: MLFLOW_TRACKING_URI; default: mlflow.db in SWEEPER_HOME]",
)  # fmt: skip
experiment_option = click.option(
    "--experiment-name", metavar="NAME", help="MLflow experiment for the runs; created if missing. "
    "[env: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID; default: bn-dropout]",
)  # fmt: skip
storage_option = click.option(
    "--storage", envvar="SWEEPER_STORAGE", metavar="URL",
    help="Study database, sqlite or PostgreSQL. [env: SWEEPER_STORAGE; default: sweeper.db in SWEEPER_HOME]",
)  # fmt: skip
system_metrics_option = click.option(
    "--system-metrics", is_flag=True,
    help="Record CPU and memory use of this machine at each epoch, for MLflow's System metrics tab.",
)  # fmt: skip


def chosen_article(name: str, file: Path | None) -> Article:
    """Return the article that the options name, of which only one may be given."""
    if file is not None:
        refuse("names an article, and --claims another. Leave one of them out.", "article")
    from sweeper.replication.articles import choose_article

    return choose_article(name, file)


def store_options(command: Command) -> Command:
    """Add the options of a command that reads or writes an MLflow store."""
    return tracking_option(experiment_option(command))


def output_options(command: Command) -> Command:
    """Add the output options that every command has."""
    shown = "Print one JSON object as the last line."
    return click.option("--json", "json_output", is_flag=True, help=shown)(general(command))


engine_options: Final = (
    or_auto("--workers", Count(1, MAX_WORKERS), "Training runs at a time. With 1, a sweep is repeatable.",
            "1; on a GPU or on Ray, as many as fit"),
    click.option("--engine", "engine", type=EngineName(ENGINES), metavar="ENGINE", default="auto", show_default=False,
                 help="Where to train. serial: in this process; processes: in worker processes; gpu: side by side on "
                 "one GPU; ray: on a Ray cluster. [default: gpu on a GPU, else processes]"),
)  # fmt: skip
ray_options: Final = group(
    "Ray",
    click.option("--address", "--ray-address", "address", metavar="auto|HOST:PORT",
                 help="Ray cluster that this machine belongs to, for --engine ray. [default: start one here]"),
    click.option("--cpus-per-trial", type=Number(0, MAX_WORKERS, min_open=True), default=1,
                 help="CPUs that Ray reserves per training run."),
    click.option("--gpus-per-trial", type=Number(0, MAX_WORKERS), default=0,
                 help="GPUs, or a fraction of one, that Ray reserves per training run."),
)  # fmt: skip


def ends_unread(command: Command) -> Command:
    """End a command as SIGPIPE would once nobody reads its output: it has not finished its work."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:
            raise Interrupted(signal.SIGPIPE) from None

    return run


def refuse(why: str, *names: str) -> None:
    """Refuse the options `names` if they are on the command line, where they would be ignored."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {why}")
