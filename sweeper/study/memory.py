"""Optuna's storage in memory, which can show chosen trials instead of its own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Container, Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState


class Memory(optuna.storages.InMemoryStorage):
    """A storage in memory. While it shows `chosen` trials, a sampler or an evaluator sees no others."""

    def __init__(self, chosen: Sequence[FrozenTrial] | None = None) -> None:
        super().__init__()
        self._chosen = chosen

    @contextlib.contextmanager
    def showing(self, chosen: Sequence[FrozenTrial]) -> Iterator[None]:
        """Within the block, show these trials only."""
        self._chosen = chosen
        try:
            yield
        finally:
            self._chosen = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the chosen trials in these states, or all of the study where none are chosen."""
        if self._chosen is None:
            return super().get_all_trials(study_id, deepcopy, states)
        chosen = [trial for trial in self._chosen if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen
