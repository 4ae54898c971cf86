"""Many runs at once, each in a worker process; the images are shared, not copied.

A worker holds no credentials, no database and no MLflow: it receives configurations and sends back what training
yields. It is forked from a server that has imported torch and was started without the variables that hold secrets. It
dies with its parent. After an epoch it briefly waits for the driver's reply, so that a pruned run stops there, but not
for long, so that a busy driver does not delay the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final

from sweeper.core.config import RunConfig
from sweeper.core.errors import WorkerLost
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import Split
from sweeper.engine.base import Event
from sweeper.engine.forkserver import Child, send, start_server

if TYPE_CHECKING:
    from sweeper.training.images import Data

WORD_SECONDS: Final = 0.25  # how long a worker waits after an epoch for the reply whether to continue
GO_ON, CLOSE, HOLD = "go on", "close", "hold"


@dataclass
class _Worker:
    child: Child
    key: int | None = None  # of the training it was given, until its last message
    cancelled: bool = False
    awaiting_word: bool = False
    held: bool = False


class ProcessEngine:
    """Train in a fixed number of worker processes; replace one that dies."""

    interruptible = True

    def __init__(self, splits: SharedSplits, workers: int, threads: int) -> None:
        self.slots = workers
        start_server()
        self._splits = splits
        self._threads = threads
        self._workers = [self._spawn() for _ in range(workers)]

    def _spawn(self) -> _Worker:
        return _Worker(Child(_work, self._splits, self._threads))

    def free(self) -> int:
        """Return how many more runs could start."""
        return max(0, self.slots - sum(w.key is not None for w in self._workers))

    def submit(self, key: int, config: RunConfig) -> None:
        """Give the run to an idle worker, or to a new one."""
        worker = next((w for w in self._workers if w.key is None), None)
        if worker is None:
            worker = self._spawn()
            self._workers.append(worker)
        worker.key, worker.cancelled, worker.awaiting_word = key, False, False
        with contextlib.suppress(OSError):  # it died while idle: wait() reports it
            worker.child.pipe.send(config)

    def wait(self, timeout: float) -> list[Event]:
        """Let the runs continue, then collect what the workers have sent."""
        for worker in self._workers:
            if worker.held:
                worker.held = False
                self._tell(worker, GO_ON)
            self._send_word(worker)
        ready = set(wait([w.child.pipe for w in self._workers], timeout))
        events = [self._receive(index) for index, w in enumerate(self._workers) if w.child.pipe in ready]
        self._end_surplus()
        return [event for event in events if event is not None]

    def _receive(self, index: int) -> Event | None:
        """Receive a message of a worker, or its death."""
        worker = self._workers[index]
        key, cancelled = worker.key, worker.cancelled
        try:
            what, last = worker.child.receive()
        except WorkerLost as lost:
            self._workers[index] = self._spawn()
            what, last = lost, True
        if last:
            worker.key = None
        worker.awaiting_word = not last
        return None if cancelled or key is None or what is None else Event(key, what)

    def cancel(self, key: int) -> None:
        """Tell the worker to close the run, and drop what it still sends."""
        for worker in self._workers:
            if worker.key == key:
                worker.cancelled = True
                worker.awaiting_word |= worker.held
                worker.held = False
                self._send_word(worker)

    def _send_word(self, worker: _Worker) -> None:
        if worker.awaiting_word and worker.key is not None:
            worker.awaiting_word = False
            self._tell(worker, CLOSE if worker.cancelled else GO_ON)

    def _tell(self, worker: _Worker, word: str) -> None:
        with contextlib.suppress(OSError):  # it died: the next receive reports it
            worker.child.pipe.send(word)

    def hold(self) -> None:
        """Make each run wait at the end of its epoch."""
        for worker in self._workers:
            if worker.key is not None and not worker.cancelled:
                worker.held = True
                self._tell(worker, HOLD)

    def release(self) -> None:
        """Kill the workers; `submit` starts new ones."""
        self.close()
        self._workers = []

    def resize(self, slots: int) -> None:
        """Set the number of workers; those that are too many end as soon as they are idle."""
        self.slots = slots
        self._end_surplus()

    def _end_surplus(self) -> None:
        for worker in [w for w in self._workers if w.key is None][: max(0, len(self._workers) - self.slots)]:
            worker.child.kill()
            self._workers.remove(worker)

    def close(self) -> None:
        """Kill the workers, which hold nothing that could be lost."""
        for worker in self._workers:
            worker.child.kill()


def _work(pipe: Connection, splits: Sequence[Split], threads: int) -> None:
    from sweeper.training.device import use_threads
    from sweeper.training.images import Data

    use_threads(threads)
    data = [Data.from_arrays(split) for split in splits]
    while True:
        try:
            config = pipe.recv()
        except (EOFError, OSError):
            return
        if isinstance(config, RunConfig):  # else a word that came late
            _train(pipe, config, data)


def _train(pipe: Connection, config: RunConfig, data: list[Data]) -> None:
    from sweeper.training.failures import explain
    from sweeper.training.start import start

    training = start(config, data)
    try:
        while True:
            send(pipe, (next(training), False))
            if _told_to_close(pipe):
                training.close()
                send(pipe, (None, True))
                return
    except StopIteration as stop:
        send(pipe, (stop.value, True))
    except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, reported to the driver
        send(pipe, (explain(error), True))


def _told_to_close(pipe: Connection) -> bool:
    """Wait briefly for the driver's reply, and after HOLD for the next one; of several, any CLOSE counts."""
    words = [pipe.recv()] if pipe.poll(WORD_SECONDS) else []
    while words[-1:] == [HOLD] or pipe.poll(0):
        words.append(pipe.recv())
    return CLOSE in words
