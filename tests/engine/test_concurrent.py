"""Trainings side by side on a GPU: memory that runs out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import OutOfMemory
from sweeper.core.results import TrainResult
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.sweep.driver import RETRIES
from sweeper.training.gpu.captured import Cooperative, cooperative
from sweeper.training.images import Data
from tests.support.engines import SOON, THREADS, quick

pytest_plugins = ["tests.support.engines"]


def test_out_of_memory_lets_half_as_many_advance(split: list[Data], monkeypatch: pytest.MonkeyPatch):
    """The device holds three; the driver submits again what did not fit, as it promises, at most twice."""
    engine = ConcurrentEngine(split, "cpu", THREADS, 8)

    def small_device(config: RunConfig, data: Data, beside: Callable[[], int]) -> Cooperative:
        if beside() >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (yield from cooperative(config, data, beside))

    monkeypatch.setattr("sweeper.training.start.cooperative", small_device)
    attempts, results = Counter[int](), set()
    for key in range(8):
        engine.submit(key, quick(epochs=1, seed=key))
    lost: list[int] = []
    while len(results) < 8:
        while lost and engine.free():
            engine.submit(lost[0], quick(epochs=1, seed=lost.pop(0)))
        for event in engine.wait(SOON):
            if isinstance(event.what, OutOfMemory):
                attempts[event.key] += 1
                lost.append(event.key)
            elif isinstance(event.what, TrainResult):
                results.add(event.key)
    assert max(attempts.values()) <= RETRIES
    assert 1 <= engine.slots < 4
    assert engine.free() == engine.slots
