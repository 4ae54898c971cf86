"""Shared by the tests of engines: images, quick configurations, and their events. A plugin of pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine, Event
from sweeper.training.images import Data
from tests.support.waiting import until

THREADS = 1
SOON = 0.05  # seconds that one wait() may take
ENDLESS = 10_000  # epochs


@pytest.fixture(scope="session")
def split(tiny: Data) -> list[Data]:
    """Two folds of a few images; a run that is not cross-validation takes the first."""
    half = torch.arange(150)
    return [tiny, Data(tiny.train[half], tiny.val[half[:50]])]


@pytest.fixture(scope="session")
def shared(split: list[Data]) -> SharedSplits:
    return SharedSplits([data.arrays() for data in split])


def quick(**changes: Any) -> RunConfig:
    fields = {"model": "small", "epochs": 3, "batch_size": 64, "augmentation": "crop-flip", "dataset": "sample"}
    return RunConfig.create(**fields | changes)


def events(engine: Engine, done: Callable[[list[Event]], Any]) -> list[Event]:
    """Collect the engine's events until `done` is true of them."""
    seen: list[Event] = []
    until(lambda: (seen.extend(engine.wait(SOON)), done(seen))[1], "events of an engine")
    return seen


def ends(seen: list[Event], count: int = 1) -> bool:
    """Return True if that many trainings have ended."""
    return sum(not isinstance(e.what, EpochResult) for e in seen) >= count


def train_all(engine: Engine, configs: dict[int, RunConfig]) -> list[Event]:
    """Collect the events of the trainings, submitted as slots become free."""
    waiting, seen = dict(configs), []
    while not ends(seen, len(configs)):
        while waiting and engine.free():
            key = next(iter(waiting))
            engine.submit(key, waiting.pop(key))
        seen += events(engine, bool)
    return seen


def lost_one(engine: Engine, kill: Callable[[], Any]) -> tuple[Event, list[int]]:
    """Train 1 and 2 without end, call `kill`, and return the event that one of them ended in.

    The other must go on: its next three epochs are returned as distances to the last one before.
    """
    engine.submit(1, quick(epochs=ENDLESS))
    engine.submit(2, quick(epochs=ENDLESS))
    seen = events(engine, lambda seen: {e.key for e in seen} == {1, 2})
    kill()
    seen += events(engine, ends)
    (lost,) = [e for e in seen if not isinstance(e.what, EpochResult)]
    assert engine.free() == 1
    last = max(e.what.epoch for e in seen if e.key != lost.key and isinstance(e.what, EpochResult))
    later = events(engine, lambda seen: len(seen) >= 3)
    assert {e.key for e in later} == {3 - lost.key}
    return lost, [e.what.epoch - last for e in later if isinstance(e.what, EpochResult)]


def gone(pid: int) -> bool:
    """Return True if the process has ended, even if nobody has waited for it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
