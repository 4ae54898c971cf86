"""Many runs side by side on one GPU, in this process: each replays its graph in its own stream.

A single run leaves most of a GPU idle. The runs may differ in shape, and the driver replaces one as soon as it
ends. This thread launches ahead for each in turn, and waits for none while another can continue. When memory runs out,
the number of slots is halved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
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

POLL_SECONDS: Final = 2e-4  # between two queries of a device that has enough to do


@dataclass
class _Training:
    key: int
    config: RunConfig
    generator: Cooperative
    waiting: Waiting | None = None  # for work of the device


class ConcurrentEngine:
    """Train up to `slots` runs on the GPU `device`. On a CPU, for tests, they take turns."""

    interruptible = True

    def __init__(self, data: Sequence[Data], device: str, threads: int, slots: int) -> None:
        use_threads(threads)
        self.slots = slots
        self._device = torch.device(device)
        self._data = [Data(part.train.to(self._device), part.val.to(self._device)) for part in data]
        self._held: dict[int, _Training] = {}
        # a stream whose kernels run before those of the runs, as this thread waits for them
        self._first = torch.cuda.Stream(self._device, priority=-1) if self._device.type == "cuda" else None

    def free(self) -> int:
        """Return the number of empty slots."""
        return max(0, self.slots - len(self._held))

    def submit(self, key: int, config: RunConfig) -> None:
        """Start the run at the next `wait`."""
        generator = in_turn(config, self._data, lambda: len(self._held) - 1)
        self._held[key] = _Training(key, config, generator)

    def wait(self, timeout: float) -> list[Event]:
        """Advance each run as far as possible, and return the epochs and results that it reached."""
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
        """Launch the next work of a run; return the event if it has reached an epoch or its end."""
        try:
            what = next(training.generator)
        except StopIteration as stop:
            del self._held[training.key]
            with torch.cuda.stream(self._first):
                return Event(training.key, examined(training.config, stop.value, self._data[0]))
        except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, reported to the driver
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
        """Close the run."""
        if training := self._held.pop(key, None):
            training.generator.close()

    def hold(self) -> None:
        """No-op: runs only advance in `wait`."""

    def release(self) -> None:
        """Close all runs, and return the memory that torch caches to the device."""
        for key in list(self._held):
            self.cancel(key)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def resize(self, slots: int) -> None:
        """Set the number of slots."""
        self.slots = slots

    def close(self) -> None:
        """Close all runs."""
        for key in list(self._held):
            self.cancel(key)
