"""Exact replay: train a recorded run again and compare it bit for bit.

This compares every metric of every recorded epoch except times, and the SHA-256 of the history and of the weights if
the run recorded them. With the same code, packages, processor and threads a replay is always identical.

If a run was continued, its last attempt is trained again. Epochs of an earlier attempt that may have other bits, for
example from other threads, are not compared.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import UsageError
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.own import check_unchanged
from sweeper.data.sources import find
from sweeper.data.splits import load_test
from sweeper.sweep.describe import environment_tags
from sweeper.sweep.retrain import train_all
from sweeper.sweep.signals import Signals
from sweeper.tracking.base import ENGINE_TAG, THREADS_TAG, Record
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.fetching import fetch
from sweeper.tracking.reading import read_record
from sweeper.training.device import hardware, resolve_device, use_threads
from sweeper.training.images import Data, load
from sweeper.training.start import start

NAMES: Final = {
    "mlflow.source.git.commit": "commit",
    "sweeper.git.changed": "uncommitted changes",
    "sweeper.versions": "packages",
    "sweeper.hardware": "processor",
}


def replay(env: Environment, run: str, dataset: str | None = None) -> dict[str, Any]:
    """Train a run again, with its configuration, data and threads, up to its last recorded epoch.

    `run` is a folder of a journal, or a run in MLflow. `dataset` names its images if they have moved.

    Returns:
        The JSON that `--json` prints. `difference` is the first one, empty if the runs are identical.

    Raises:
        UsageError: there is no such run, it has nothing to compare, its device is missing, or it was trained in a
            stack.
        DataError: its data set is missing or has changed.
    """
    record = find_record(env, run)
    config = RunConfig.from_params(record.params)
    config = config.derive(dataset=dataset) if dataset else config
    _check_comparable(run, record)
    resolve_device(config.device)
    images = images_of(env, record, config)
    threads = threads_of(run, record)
    then, now = record.tags, environment_tags(hardware(config.device))
    changes = [
        f"{name}: was {then.get(tag, 'none')}, is {now.get(tag, 'none')}"
        for tag, name in NAMES.items()
        if then.get(tag) != now.get(tag)
    ]
    env.say(
        f"replaying {_last(record, config)} of {config.epochs} epochs: {config.model_name}, {config.placement.value}, "
        f"{config.dataset}, {config.precision} on {config.device}, {threads} threads"
    )
    for change in changes:
        env.warn(f"changed since the run was recorded: {change}")
    use_threads(threads)
    with Signals() as signals:
        difference, weights = _compare(env, record, config, images, signals)
    if difference:
        env.say(f"different: {difference}")
        env.say(f"changed since the run was recorded: {'; '.join(changes) or 'nothing that was recorded'}")
    else:
        env.say(f"identical: {len(record.epochs)} epochs and {'' if weights else 'no recorded '}weights")
    return {
        "identical": not difference,
        "epochs": len(record.epochs),
        "weights": weights,
        "difference": difference,
        "environment": changes,
        "config": config.model_dump(mode="json"),
    }


def find_folder(env: Environment, run: str) -> Path | None:
    """Return the folder of the journal that `run` names, or None for a run in MLflow."""
    for folder in (Path(run), env.journal / run):
        if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir() raises for a name above 255 characters
            return folder
    return None


def find_record(env: Environment, run: str) -> Record:
    """Return the record of a run of the journal, or in MLflow.

    Raises:
        UsageError: there is no such run.
    """
    if folder := find_folder(env, run):
        return read_record(folder)
    if env.tracking_uri in (OFFLINE, NONE):
        raise UsageError(
            f"run {run[:60]!r} is not a journal folder. To replay an MLflow run, name its store with --tracking-uri."
        )
    return fetch(env.tracking_uri, run, env.experiment)


def threads_of(run: str, record: Record) -> int:
    """Return the number of threads that the run computed with, or refuse one that no run has."""
    threads = record.tags.get(THREADS_TAG, "1")
    if not re.fullmatch("[1-9][0-9]{0,3}", threads, re.ASCII):
        raise UsageError(f"run {run[:60]!r}: its tag {THREADS_TAG} is {threads[:20]!r}, not a number. Correct the tag.")
    return int(threads)


def _check_comparable(run: str, record: Record) -> None:
    """Refuse a run with nothing to compare, or one trained in a stack, whose size affected rounding."""
    epochs = record.earlier | record.epochs
    if not record.epochs and not _hashes(record):
        why = "no epoch is known to be of its last attempt" if epochs else "no epoch was recorded"
        more = " For a run in MLflow, replay its journal folder, which holds more." if epochs else ""
        raise UsageError(f"run {run[:60]!r}: {why}, so there is nothing to compare.{more}")
    if record.tags.get(ENGINE_TAG) == "fused" and record.stacked:
        raise UsageError(
            f"run {run[:60]!r}: it was trained in a stack (--engine fused on a CPU), which sweeper no longer supports. "
            "Replay it with the version that trained it."
        )


def images_of(env: Environment, record: Record, config: RunConfig) -> Sequence[Data]:
    """Return the images that a run was trained on, as it saw them.

    Raises:
        DataError: they are missing or have changed.
    """
    source = find(config.dataset, env.data_dir, config.image_size, env.say)
    check_unchanged(config.dataset, record.tags.get("sweeper.dataset_sha256", ""), source.spec.sha256)
    if record.tags.get("sweeper.kind") == "champion":
        return [Data.from_arrays(train_all(load_test(source)))]
    return load(config, source)


def _compare(
    env: Environment, record: Record, config: RunConfig, images: Sequence[Data], signals: Signals
) -> tuple[str, bool]:
    """Train and compare. Returns the first difference, and True if the weights were compared."""
    training = start(config, images)
    last = _last(record, config)
    while True:
        try:
            with signals.raised():
                epoch = next(training)
        except StopIteration as stop:
            return _compare_result(record, stop.value)
        recorded = record.epochs.get(epoch.epoch)
        if recorded and (difference := _compare_epoch(recorded, epoch)):
            training.close()
            return difference, False
        found = "equal" if recorded else "not compared, as an earlier attempt may have recorded it"
        env.say(f"epoch {epoch.epoch}/{config.epochs}: {found}")
        if epoch.epoch == last and last < config.epochs:
            training.close()
            return "", False


def _last(record: Record, config: RunConfig) -> int:
    """The epoch to train to."""
    return config.epochs if _hashes(record) else max(record.epochs)


def _hashes(record: Record) -> dict[str, str]:
    """The SHA-256 of history and weights if the last attempt is complete. MLflow also keeps those of an earlier one."""
    if record.tags.get("sweeper.state") != "complete":
        return {}
    tags = {name: f"sweeper.{name}_sha256" for name in ("history", "weights")}
    return {name: record.tags[tag] for name, tag in tags.items() if tag in record.tags}


def _compare_epoch(recorded: EpochResult, epoch: EpochResult) -> str:
    again = epoch_metrics(epoch)
    for name, was in epoch_metrics(recorded).items():
        if not math.isnan(was) and not name.startswith("time/") and again[name] != was:
            return f"epoch {epoch.epoch} is the first that differs: {name} was {was!r}, is {again[name]!r}"
    return ""


def _compare_result(record: Record, result: TrainResult) -> tuple[str, bool]:
    hashes = _hashes(record)
    for name, again in (("history", result.history_sha256), ("weights", result.weights_sha256)):
        was = hashes.get(name, again)
        if was != again:
            return f"the SHA-256 of the {name} was {was}, is {again}", name == "weights"
    return "", "weights" in hashes
