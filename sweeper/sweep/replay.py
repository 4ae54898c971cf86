"""Exact replay: train a recorded run again, and compare it bit by bit.

Equal are the SHA-256 of the history and of the weights, where the run recorded them, and every
metric of every recorded epoch but the times. With the same code, packages, processor and threads
the answer is `identical`, always.

Of a run that was continued, the last attempt is trained again. Epochs that an earlier one recorded, on other threads
say, are not of that training and are not compared.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import DataError, UsageError
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.fashion import resolve
from sweeper.data.splits import load_test
from sweeper.sweep.describe import environment_tags
from sweeper.sweep.retrain import watched
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


@dataclass(frozen=True)
class Replayed:
    """What came of a replay: `difference` is empty if everything that was recorded came out again.

    `environment` says what is not as it was when the run was recorded.
    """

    config: RunConfig
    epochs: int  # compared
    weights: bool  # whether the weights were compared
    difference: str
    environment: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every bit that was recorded came out again."""
        return not self.difference

    def describe(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "identical": self.identical,
            "epochs": self.epochs,
            "weights": self.weights,
            "difference": self.difference,
            "environment": list(self.environment),
            "config": self.config.model_dump(mode="json"),
        }


def find(env: Environment, run: str) -> Record:
    """The run that `run` names: a folder of a journal, or a run in MLflow.

    Raises:
        UsageError: there is no such run.
    """
    for folder in (Path(run), env.journal / run):
        if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir() raises for a name above 255 characters
            return read_record(folder)
    if env.tracking_uri in (OFFLINE, NONE):
        raise UsageError(f"run {run[:60]!r}: no folder of a journal; --tracking-uri says where else to look")
    return fetch(env.tracking_uri, run)


def replay(env: Environment, run: str) -> Replayed:
    """Train the run again, with its configuration, data and threads, up to its last recorded epoch.

    Raises:
        UsageError: there is no such run, it has nothing to compare, its device is not here, or it was trained in a
            stack.
        DataError: its data set is not there, or is another one today.
    """
    record = find(env, run)
    config = RunConfig.from_params(record.params)
    if not record.epochs and not _hashes(record):
        raise _nothing(run, record)
    _check_unstacked(run, record)
    resolve_device(config.device)
    images = _images(env, record, config)
    threads = int(record.tags.get(THREADS_TAG, "1"))
    changes = tuple(_changes(record.tags, environment_tags(hardware(config.device))))
    env.say(
        f"replaying {_last(record, config)} of {config.epochs} epochs: {config.model}, {config.placement.value}, "
        f"{config.dataset}, {config.precision} on {config.device}, {threads} threads"
    )
    for change in changes:
        env.warn(f"not as it was: {change}")
    use_threads(threads)
    with Signals() as signals:
        difference, weights = _compare(env, record, config, images, signals)
    return Replayed(config, len(record.epochs), weights, difference, changes)


def _images(env: Environment, record: Record, config: RunConfig) -> Sequence[Data]:
    manifest, folder = resolve(config.dataset, env.data_dir)
    digest = record.tags.get("sweeper.dataset_sha256", manifest.digest)
    if digest != manifest.digest:
        raise DataError(
            f"the run was trained on data with SHA-256 {digest[:12]}…, {manifest.name} has {manifest.digest[:12]}…: "
            "another data set cannot give the same run"
        )
    if record.tags.get("sweeper.kind") == "champion":
        return [Data.from_arrays(watched(load_test(config, folder)))]
    return load(config, folder)


def _changes(then: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    """What the run recorded of its environment and what is another thing now."""
    for tag, name in NAMES.items():
        was, now_is = then.get(tag, "none"), now.get(tag, "none")
        if was != now_is:
            yield f"{name}: was {was}, is {now_is}"


def _compare(
    env: Environment, record: Record, config: RunConfig, images: Sequence[Data], signals: Signals
) -> tuple[str, bool]:
    """Train and compare; the first difference in words, and whether the weights were compared."""
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
    """The SHA-256 of history and weights, if the last attempt came to its end: MLflow keeps those of an earlier one."""
    if record.tags.get("sweeper.state") != "complete":
        return {}
    tags = {name: f"sweeper.{name}_sha256" for name in ("history", "weights")}
    return {name: record.tags[tag] for name, tag in tags.items() if tag in record.tags}


def _nothing(run: str, record: Record) -> UsageError:
    if not record.earlier:
        return UsageError(f"run {run[:60]!r}: no epoch was recorded, so there is nothing to compare")
    return UsageError(
        f"run {run[:60]!r}: no epoch is known to be of its last attempt, so there is nothing to compare; of a run in "
        "MLflow, its folder in a journal tells more"
    )


def _check_unstacked(run: str, record: Record) -> None:
    """Refuse a run whose last attempt was trained in a stack: how sums were rounded depended on the stack's size."""
    if record.tags.get(ENGINE_TAG) == "fused" and record.stacked:
        raise UsageError(
            f"run {run[:60]!r}: it was trained in a stack (--engine fused on a CPU), which sweeper no longer does. "
            "Replay it with the version that trained it."
        )


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
