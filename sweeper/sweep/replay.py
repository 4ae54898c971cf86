"""Exact replay: train a recorded run again, and compare it bit by bit.

Equal are the SHA-256 of the history and of the weights, where the run recorded them, and every
metric of every recorded epoch but the times. A run that was trained stacked with others is
stacked again, with copies of itself. With the same code, packages, processor and threads
the answer is `identical`, always.

Of a run that was continued, the last attempt is trained again. Epochs that an earlier one recorded, on other threads
say, are not of that training and are not compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import DataError, Diverged, UsageError
from sweeper.core.results import EpochResult, Training, TrainResult
from sweeper.data.fashion import resolve
from sweeper.data.splits import load_test
from sweeper.sweep.describe import environment_tags
from sweeper.sweep.retrain import watched
from sweeper.sweep.signals import Signals
from sweeper.tracking.base import ENGINE_TAG, STACKING, THREADS_TAG, Record
from sweeper.tracking.fetching import fetch
from sweeper.tracking.reading import read_record
from sweeper.training.device import hardware, resolve_device, use_threads
from sweeper.training.images import Data, load
from sweeper.training.stacked import train_members
from sweeper.training.start import examined, start

NAMES: Final = {
    "mlflow.source.git.commit": "commit",
    "sweeper.git.changed": "uncommitted changes",
    "sweeper.versions": "packages",
    "sweeper.hardware": "processor",
}
STACK: Final = "stack/members"  # a metric of the epochs that were trained stacked


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
        UsageError: there is no such run, it has nothing to compare, its device is not here, or it was continued in a
            stack of which too little is recorded.
        DataError: its data set is not there, or is another one today.
    """
    record = find(env, run)
    config = RunConfig.from_params(record.params)
    if not record.epochs and not _hashes(record):
        raise _nothing(run, record)
    places = _places(record)
    if places and 1 not in places:
        raise _untold(run)
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
    if difference and _stack_is_guessed(record):
        raise _untold(run)
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
    training = _restacked(record, config, images) if _places(record) else start(config, images)
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


def _places(record: Record) -> dict[int, tuple[int, int]]:
    """For each epoch that was trained stacked with others: how many they were, and which place this one had."""
    epochs = record.earlier | record.epochs if _stack_is_guessed(record) else record.epochs
    return {n: (int(e[STACK]), int(e["stack/place"])) for n, e in epochs.items() if STACK in e}


def _stack_is_guessed(record: Record) -> bool:
    """Whether the last attempt was stacked, or may have been, in epochs of which only an earlier one's stack is
    recorded; it is taken for the same, as it is where all trainings of a stack were continued together."""
    stacked = record.tags.get(ENGINE_TAG) == STACKING and all(STACK in epoch for epoch in record.epochs.values())
    return stacked and bool(record.earlier)


def _nothing(run: str, record: Record) -> UsageError:
    if not record.earlier:
        return UsageError(f"run {run[:60]!r}: no epoch was recorded, so there is nothing to compare")
    return UsageError(
        f"run {run[:60]!r}: no epoch is known to be of its last attempt, so there is nothing to compare; of a run in "
        "MLflow, its folder in a journal tells more"
    )


def _untold(run: str) -> UsageError:
    return UsageError(
        f"run {run[:60]!r}: it was continued by --engine fused, and with which trainings it was stacked in the epochs "
        "that it had is not recorded, so it cannot be compared"
    )


def _restacked(record: Record, config: RunConfig, images: Sequence[Data]) -> Training:
    """The training in a stack as large as it was trained in, at its place; the others are copies of it.

    How a sum is rounded depends on the size of the stack and on the place in it, not on what the others compute.
    """
    places = _places(record)
    size, mine = places[1]
    stacked, left = train_members([config] * size, images[0]), list(range(size))
    step = next(stacked)
    while True:
        epoch = step[mine]
        if isinstance(epoch, Diverged):
            raise epoch
        yield epoch
        size, place = places.get(epoch.epoch + 1, (len(left), left.index(mine)))
        before, after = left[: left.index(mine)], left[left.index(mine) + 1 :]
        staying = [*before[:place], mine, *after[: size - 1 - place]]
        try:
            step = stacked.send(frozenset(left) - frozenset(staying))
        except StopIteration as stop:
            return examined(config, stop.value[mine], images[0])
        left = staying


def _compare_epoch(recorded: dict[str, float], epoch: EpochResult) -> str:
    again = epoch.metrics()
    for name, was in recorded.items():
        if name in again and not name.startswith("time/") and again[name] != was:
            return f"epoch {epoch.epoch} is the first that differs: {name} was {was!r}, is {again[name]!r}"
    return ""


def _compare_result(record: Record, result: TrainResult) -> tuple[str, bool]:
    hashes = _hashes(record)
    for name, again in (("history", result.history_sha256), ("weights", result.weights_sha256)):
        was = hashes.get(name, again)
        if was != again:
            return f"the SHA-256 of the {name} was {was}, is {again}", name == "weights"
    return "", "weights" in hashes
