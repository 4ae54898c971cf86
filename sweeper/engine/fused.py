"""Many trainings as one, in this process: those of one signature are stacked and advance together (members.py).

A training that shares its signature with no other is trained alone, and gives the bits that it gives in any engine.
Slots come free in batches, so that the driver asks for enough at once to stack: when half of them are empty.
Where memory runs out, half as many trainings advance from then on, and what was submitted beyond them waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from sweeper.core.config import RunConfig
from sweeper.core.errors import OutOfMemory
from sweeper.core.results import EpochResult
from sweeper.engine.base import Event
from sweeper.training.device import use_threads
from sweeper.training.failures import explain
from sweeper.training.images import Data
from sweeper.training.stacked import Step, signature, train_members
from sweeper.training.start import examined, start


class FusedEngine:
    """Up to `members` trainings, of which the groups advance in turn, an epoch each."""

    def __init__(self, data: Sequence[Data], threads: int, members: int) -> None:
        use_threads(threads)
        self.slots = members
        self._data = data
        self._submitted: list[tuple[int, RunConfig]] = []
        self._groups: deque[_Group] = deque()

    def free(self) -> int:
        """Empty slots, once half of all are empty."""
        held = len(self._submitted) + self._advancing()
        return max(0, self.slots - held) if held <= self.slots // 2 or self._submitted else 0

    def submit(self, key: int, config: RunConfig) -> None:
        """Keep the training for a `wait` that has room for it, which stacks what was submitted until then."""
        self._submitted.append((key, config))

    def wait(self, timeout: float) -> list[Event]:
        """Train one epoch of one group, however long it takes."""
        self._begin()
        while self._groups:
            held = self._advancing()
            group = self._groups.popleft()
            if events := group.advance():
                if held > 1 and any(isinstance(event.what, OutOfMemory) for event in events):
                    self.slots = max(1, min(self.slots, held // 2))
                if group.keys:
                    self._groups.append(group)
                return events
        return []

    def cancel(self, key: int) -> None:
        """Let the member go; the others of its group do not notice."""
        self._submitted = [(k, config) for k, config in self._submitted if k != key]
        for group in self._groups:
            group.cancel(key)
            if not group.keys:
                group.close()
        self._groups = deque(group for group in self._groups if group.keys)

    def close(self) -> None:
        """Let go of everything."""
        self._submitted = []
        for group in self._groups:
            group.close()
        self._groups.clear()

    def _advancing(self) -> int:
        return sum(len(group.keys) for group in self._groups)

    def _begin(self) -> None:
        """Stack what was submitted; where not all of it fits any more, as much as fits, once half of the slots are
        empty: a training in a stack of few costs more."""
        room = max(0, self.slots - self._advancing())
        if len(self._submitted) > room < self.slots - self.slots // 2:
            return
        now, self._submitted = self._submitted[:room], self._submitted[room:]
        self._groups.extend(_Group(configs, self._data) for configs in _by_signature(now))


def _by_signature(submitted: Sequence[tuple[int, RunConfig]]) -> list[dict[int, RunConfig]]:
    """The trainings that can be stacked, each group by key; cross-validation is never stacked."""
    groups: dict[str, dict[int, RunConfig]] = {}
    for key, config in submitted:
        name = str(key) if config.split == "folds" else signature(config)
        groups.setdefault(name, {})[key] = config
    return list(groups.values())


_Advancing = tuple[Generator[Any, Any, Any], Callable[[], list[Event]]]  # trainings, and what takes an epoch of them


class _Group:
    """Trainings of one signature. `keys` are those that go on."""

    def __init__(self, configs: dict[int, RunConfig], data: Sequence[Data]) -> None:
        self.keys = list(configs)
        self._order = list(configs)  # a member's place is that of its key
        self._configs, self._data = configs, data
        self._let_go: set[int] = set()
        self._training, self._next = self._alone() if len(configs) == 1 else self._stacked()

    def close(self) -> None:
        """Let go of the tensors at once: the group is a part of a reference cycle."""
        self._training.close()

    def cancel(self, key: int) -> None:
        """Hand out nothing more of this training."""
        if key in self.keys:
            self.keys.remove(key)
            self._let_go.add(self._order.index(key))

    def advance(self) -> list[Event]:
        """The events of one epoch, or of the end; an error is the end of all."""
        try:
            events = self._next()
        except Exception as error:  # noqa: BLE001 - whatever a training raises is an outcome, told to the driver
            events = [Event(key, explain(error)) for key in self.keys]
        events = [event for event in events if event.key in self.keys]
        ended = {event.key for event in events if not isinstance(event.what, EpochResult)}
        self.keys = [key for key in self.keys if key not in ended]
        return events

    def _alone(self) -> _Advancing:
        (key,) = self._order
        training = start(self._configs[key], self._data)

        def advance() -> list[Event]:
            try:
                return [Event(key, next(training))]
            except StopIteration as stop:
                return [Event(key, stop.value)]

        return training, advance

    def _stacked(self) -> _Advancing:
        configs = [self._configs[key] for key in self._order]
        training = train_members(configs, self._data[0])
        begun = False

        def advance() -> list[Event]:
            nonlocal begun
            let_go, self._let_go = frozenset(self._let_go), set()
            try:
                step: Step = training.send(let_go) if begun else next(training)
                begun = True
                return [Event(self._order[member], what) for member, what in step.items()]
            except StopIteration as stop:
                return [
                    Event(self._order[m], examined(configs[m], result, self._data[0]))
                    for m, result in stop.value.items()
                ]

        return training, advance
