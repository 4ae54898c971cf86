"""One run at a time in this process: breakpoints work, and nothing has to start."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.core.config import RunConfig
from sweeper.core.results import Training
from sweeper.engine.base import Event
from sweeper.training.device import use_threads
from sweeper.training.failures import explain
from sweeper.training.images import Data
from sweeper.training.start import start


class SerialEngine:
    """Advance the one run by an epoch at each `wait`."""

    slots = 1
    interruptible = True

    def __init__(self, data: Sequence[Data], threads: int) -> None:
        use_threads(threads)
        self._data = data
        self._running: tuple[int, Training] | None = None

    def free(self) -> int:
        """Return 1 while nothing runs."""
        return 0 if self._running else 1

    def submit(self, key: int, config: RunConfig) -> None:
        """Start a run."""
        assert self._running is None, "submit() without a free slot"
        self._running = key, start(config, self._data)

    def wait(self, timeout: float) -> list[Event]:
        """Train one epoch, however long it takes."""
        if self._running is None:
            return []
        key, training = self._running
        try:
            return [Event(key, next(training))]
        except StopIteration as stop:
            self._running = None
            return [Event(key, stop.value)]
        except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, reported to the driver
            self._running = None
            return [Event(key, explain(error))]

    def cancel(self, key: int) -> None:
        """Close the run's generator."""
        if self._running and self._running[0] == key:
            self._running[1].close()
            self._running = None

    def hold(self) -> None:
        """No-op: a run only advances in `wait`."""

    def release(self) -> None:
        """Close what is running."""
        if self._running:
            self.cancel(self._running[0])

    def resize(self, slots: int) -> None:
        """No-op: one at a time."""

    def close(self) -> None:
        """Close what is running."""
        self.release()
