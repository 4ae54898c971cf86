"""The record of a run before it starts: parameters, tags, versions and a description."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import textwrap
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sweeper import __version__
from sweeper.core.config import RunConfig
from sweeper.core.errors import one_line
from sweeper.core.experiments import EXPERIMENT_TITLES
from sweeper.data.splits import Split
from sweeper.engine.secrecy import public
from sweeper.sweep.choose import Chosen
from sweeper.tracking.base import ENGINE_TAG, THREADS_TAG, RunInfo

MOST_NAMES: Final = 500  # characters of the names of classes in a tag; all of them stand in the data set's profile
CHANGED: Final = "-dirty"  # as git describe says it
PACKAGES: Final = ("torch", "numpy")
OF_HOOKS: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set while git runs a hook


def describe_run(
    chosen: Chosen, config: RunConfig, images: Sequence[Split], *, kind: str, threads: int, engine: str = "serial"
) -> RunInfo:
    """Return the record of a run, without its key, name and folder."""
    counts = {"train_images": len(images[0].train), "val_images": len(images[0].val)}
    spec = chosen.source.spec
    tags = {
        "sweeper.kind": kind,
        "sweeper.experiment": str(config.experiment),
        "sweeper.dataset": spec.name + (" (FashionMNIST was not found)" if chosen.substituted else ""),
        "sweeper.dataset_sha256": spec.sha256,
        "sweeper.image_shape": "x".join(map(str, spec.shape)),
        "sweeper.classes": textwrap.shorten(", ".join(spec.classes), MOST_NAMES, placeholder=" …"),
        "sweeper.config_key": config.key,
        THREADS_TAG: str(threads),
        ENGINE_TAG: engine,
        "mlflow.source.name": f"sweeper {'train' if kind == 'run' else 'optimize'}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        **environment_tags(chosen.hardware),
    }
    return RunInfo(
        key="", name="", folder="", params=config.to_params(), tags=tags, description=_words(config, counts),
        dataset={"name": spec.name, "sha256": spec.sha256, "source": chosen.source.place,
                 "profile": counts | {"folds": config.folds, "split": config.split, "test_images": spec.test_images,
                                      "shape": list(spec.shape), "classes": list(spec.classes)}},
        files=chosen.code,
    )  # fmt: skip


def _user() -> str:
    """The user's name, or the number of a user without one, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _words(config: RunConfig, counts: dict[str, int]) -> str:
    """Describe a run in a paragraph for MLflow's UI."""
    title = EXPERIMENT_TITLES.get(config.experiment, "")
    of_article = f"Derived from experiment {config.experiment} of the article ({title}). " if title else ""
    split = {
        "test": "`val` is the test set, as in the article. Do not select anything by it.",
        "holdout": "`val` is held out of the training images. The test images were not used.",
        "folds": f"All values are means over {config.folds} stratified folds. The test images were not used.",
    }[config.split]
    return (
        f"{of_article}**{config.model_name}** network, placement **{config.placement.value}**. "
        f"Dropout rate {config.conv_dropout:.3g} in the convolutional part, {config.head_dropout:.3g} in the head. "
        f"{config.epochs} epochs of {counts['train_images']:,} images, batch size {config.batch_size}, "
        f"augmentation {config.augmentation}, AdamW at {config.lr:g} ({config.schedule}). "
        f"Validated on {counts['val_images']:,} images. {split} "
        "Train values are measured in eval mode, without augmentation, on a fixed subset."
    )


def environment_tags(hardware: str) -> dict[str, str]:
    """Return the tags of everything but the configuration that the bits of a result depend on."""
    versions = [f"sweeper {__version__}", *(f"{package} {version(package)}" for package in PACKAGES)]
    return {
        "sweeper.versions": ", ".join([f"python {platform.python_version()}", *versions]),
        "sweeper.hardware": hardware,
        **git_tags(),
    }


def git_tags() -> dict[str, str]:
    """Return the commit of the code, and a tag if tracked files differ from it.

    Where git does not track the code, it is the commit that a container image was built from, if any.
    """
    described = os.environ.get("SWEEPER_COMMIT", "")
    commit = described.removesuffix(CHANGED)
    return read_git(Path(__file__))[0] or _commit_tags(commit, changed=commit != described)


def commit_unknown() -> str:
    """Return the reason why git cannot determine a checkout's commit, or an empty string."""
    return read_git(Path(__file__))[1]


@cache
def read_git(file: Path) -> tuple[dict[str, str], str]:
    """Return the tags of the commit that has `file`, and the reason if git failed in a checkout.

    An installed package may lie in a repository of another project, which does not track it.
    """
    variables = {name: value for name, value in public().items() if name not in OF_HOOKS}

    def git(*command: str) -> str:
        argv = ["git", "-C", str(file.parent), *command]
        done = subprocess.run(
            argv, env=variables | {"LC_ALL": "C"}, capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()

    if not any((above / ".git").exists() for above in file.parents):
        return {}, ""
    try:
        git("rev-parse", "--git-dir")
    except (OSError, subprocess.SubprocessError) as error:
        return {}, one_line((getattr(error, "stderr", "") or str(error)).removeprefix("fatal: "), 500)
    try:
        git("ls-files", "--error-unmatch", file.name)
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}, ""
    return _commit_tags(commit, changed=bool(changes)), ""


def _commit_tags(commit: str, *, changed: bool) -> dict[str, str]:
    if not commit:
        return {}
    return {"mlflow.source.git.commit": commit} | ({"sweeper.git.changed": "true"} if changed else {})
