"""Many trainings side by side on one GPU, in this process: each replays its graph in a stream of its own.

A training alone leaves most of a GPU idle. They need not be of one shape, and one that ends is replaced at once. This
thread launches ahead for each in turn, and never waits for one while another can go on. Where memory runs out, half as
many advance from then on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import OutOfMemory
from sweeper.core.results import EpochResult
from sweeper.engine.base import Event
from sweeper.training.device import use_threads
from sweeper.training.failures import explain
from sweeper.training.gpu.captured import Cooperative, Waiting
from sweeper.training.images import Data
from sweeper.training.start import examined, in_turn

POLL_SECONDS: Final = 2e-4  # between looks at the device, when it has enough to do


@dataclass
class _Training:
    """One of them, and what it waits for."""

    key: int
    config: RunConfig
    generator: Cooperative
    waiting: Waiting | None = None


class ConcurrentEngine:
    """Run up to `slots` trainings on the GPU `device`. On a CPU, where it is tested, they take turns."""

    def __init__(self, data: Sequence[Data], device: str, threads: int, slots: int) -> None:
        use_threads(threads)
        self.slots = slots
        self._device = torch.device(device)
        self._data = [Data(part.train.to(self._device), part.val.to(self._device)) for part in data]
        self._held: dict[int, _Training] = {}

    @cached_property
    def _first(self) -> torch.cuda.Stream | None:
        """A stream whose kernels go before those of trainings: this thread waits for them."""
        return torch.cuda.Stream(self._device, priority=-1) if self._device.type == "cuda" else None

    def free(self) -> int:
        """Empty slots."""
        return max(0, self.slots - len(self._held))

    def submit(self, key: int, config: RunConfig) -> None:
        """Begin the training at the next `wait`."""
        generator = in_turn(config, self._data, lambda: len(self._held) - 1)
        self._held[key] = _Training(key, config, generator)

    def wait(self, timeout: float) -> list[Event]:
        """Let each training go on as far as it can; the epochs and ends that they come to."""
        until = time.monotonic() + timeout
        while self._held:
            events: list[Event] = []
            idle = True
            for training in list(self._held.values()):
                if training.waiting is None or training.waiting.query():
                    idle = False
                    if (event := self._advance(training)) is not None:
                        events.append(event)
            if events or time.monotonic() > until:
                return events
            if idle:
                time.sleep(POLL_SECONDS)
        return []

    def _advance(self, training: _Training) -> Event | None:
        """Launch what can be launched; the event that it leads to, if it does."""
        try:
            what = next(training.generator)
        except StopIteration as stop:
            del self._held[training.key]
            with torch.cuda.stream(self._first):
                return Event(training.key, examined(training.config, stop.value, self._data[0]))
        except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, told to the driver
            explained = explain(error)
            if isinstance(explained, OutOfMemory):
                self.slots = max(1, min(self.slots, len(self._held) // 2))
            del self._held[training.key]
            return Event(training.key, explained)
        if isinstance(what, EpochResult):
            training.waiting = None
            return Event(training.key, what)
        training.waiting = what
        return None

    def cancel(self, key: int) -> None:
        """Close the training."""
        if training := self._held.pop(key, None):
            training.generator.close()

    def close(self) -> None:
        """Close all."""
        for key in list(self._held):
            self.cancel(key)
