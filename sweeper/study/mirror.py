"""A study in memory, and behind it the database that outlives this process.

One process at a time writes a study (lock.py), so it does not need to read back what it has written. Sampler and pruner
see the memory. The database is written by the calls of Optuna's storage: a trial begins in one transaction, and each
value, each attribute and each end is one more. Within `together`, `begin` writes the trials that began since the last
call, and `settle` what has happened to them. A driver may die between any two transactions: the next one finds the
trial running, and trains it again.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.errors import StudyConflict
from sweeper.study.database import read_trials
from sweeper.study.memory import Memory

# A trial's system attribute: what the next driver needs if one died while it wrote the trial.
PROPOSED: Final = "proposed"


class Mirror:
    """A study of the database `storage`, which exists there; `study` is the same in memory."""

    def __init__(self, storage: optuna.storages.RDBStorage, name: str) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        self.memory = Memory()
        directions = storage.get_study_directions(self._study_id)
        self.study = optuna.create_study(storage=self.memory, study_name=name, directions=directions)
        self._memory_id = self.memory.get_study_id_from_name(name)
        for key, value in storage.get_study_user_attrs(self._study_id).items():
            self.study.set_user_attr(key, value)
        self._counters = storage.get_study_system_attrs(self._study_id)  # of samplers that count
        self.left: dict[int, FrozenTrial] = {}  # waiting or running in the database, and not begun by this process
        for trial in read_trials(storage, self._study_id):
            proposed = trial.system_attrs.get(PROPOSED, {})
            self._counters |= proposed.get("counters", {})
            if not trial.state.is_finished():
                self.left[trial.number] = copy.copy(trial)
                if "params" in proposed:
                    trial.system_attrs = trial.system_attrs | {"fixed_params": proposed["params"]}
            self.memory.create_new_trial(self._memory_id, template_trial=trial)
        for key, value in self._counters.items():
            self.memory.set_study_system_attr(self._memory_id, key, value)
        self._ids: dict[int, int] = {}  # of running trials in the database, by number
        self._late = False
        self._begun: list[FrozenTrial] = []
        self._reported: list[tuple[int, int, float]] = []
        self._ended: list[tuple[int, dict[str, Any]]] = []

    def id_in_memory(self, number: int) -> int:
        """Return a trial's ID in the memory storage."""
        return self.memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def trial(self, number: int) -> FrozenTrial:
        """Return a trial from memory; do not modify it."""
        return self.memory.get_trial(self.id_in_memory(number))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, write trials by `begin` and `settle` only, and no more if an error ends it."""
        self._late = True
        try:
            yield
        except BaseException:
            self._begun, self._reported, self._ended = [], [], []
            raise
        finally:
            self._late = False

    def set_user_attr(self, key: str, value: Any) -> None:
        """Give the study an attribute."""
        self.study.set_user_attr(key, value)
        self._storage.set_study_user_attr(self._study_id, key, value)

    def stored_attributes(self) -> dict[str, Any]:
        """Return the attributes that the study has in the database, where another process may write some."""
        return self._storage.get_study_user_attrs(self._study_id)

    def began(self, number: int) -> None:
        """Write that a trial has started, with its parameters; for one of an earlier driver, only what is missing.

        Raises:
            StudyConflict: another process has written to the study; here, or by `begin`.
        """
        trial, left = self.trial(number), self.left.get(number)
        counters = self.memory.get_study_system_attrs(self._memory_id)
        proposed: dict[str, Any] = {} if counters == self._counters else {"counters": counters}
        if left and left.params.keys() != trial.params.keys():
            proposed["params"] = trial.params
        if proposed:
            self.memory.set_trial_system_attr(self.id_in_memory(number), PROPOSED, proposed)
            self._counters = counters
        self._begun.append(self.trial(number))  # as it is now: it may be over before it is written
        if not self._late:
            self.begin()

    def begin(self) -> None:
        """Write the trials that have started since the last call.

        Raises:
            StudyConflict: another process has written to the study.
        """
        begun, self._begun = self._begun, []
        for trial in begun:
            with self._alone():
                left = self.left.pop(trial.number, None)
                if left is None:
                    self._create(trial)
                else:
                    self._complete(left, trial)

    def _create(self, trial: FrozenTrial) -> None:
        with contextlib.suppress(KeyError):
            self._stored_id(trial.number)
            raise self._conflict(f"it added trial {trial.number}")
        self._ids[trial.number] = self._storage.create_new_trial(self._study_id, template_trial=trial)

    def _complete(self, left: FrozenTrial, trial: FrozenTrial) -> None:
        """Write what the database lacks of a trial that it has. A driver that dies before `PROPOSED` is written, the
        last of the system attributes, leaves a trial whose parameters are proposed again, and the same."""
        stored = self._ids[trial.number] = self._stored_id(trial.number)
        taken = left.state != TrialState.WAITING or self._storage.set_trial_state_values(stored, TrialState.RUNNING)
        if not taken:
            raise self._conflict(f"it started trial {trial.number}")
        for key, value in trial.system_attrs.items():
            if key not in left.system_attrs:
                self._storage.set_trial_system_attr(stored, key, value)
        for name, value in trial.params.items():
            if name not in left.params:
                distribution = trial.distributions[name]
                self._storage.set_trial_param(stored, name, distribution.to_internal_repr(value), distribution)
        for key, value in trial.user_attrs.items():
            if key not in left.user_attrs:
                self._storage.set_trial_user_attr(stored, key, value)

    def _stored_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def report(self, number: int, step: int, value: float) -> None:
        """Give a trial a value, which the next `settle` writes."""
        self.memory.set_trial_intermediate_value(self.id_in_memory(number), step, value)
        self._reported.append((number, step, value))

    def end(
        self, number: int, state: TrialState, attributes: dict[str, Any], value: float | None = None
    ) -> FrozenTrial:
        """End a trial, and write what was reported, its attributes, its value and its state; return it."""
        for key, content in attributes.items():
            self.memory.set_trial_user_attr(self.id_in_memory(number), key, content)
        ended = self.study.tell(number, value, state=state)
        self._ended.append((number, attributes))
        if not self._late:
            self.settle()
        return ended

    def settle(self) -> None:
        """Write what was reported, and the trials that have ended, since the last call, after those that have started.
        Drop values that cannot be written: the next driver finds such a trial running.

        Raises:
            StudyConflict: another process has written to the study.
        """
        self.begin()
        reported, ended = self._reported, self._ended
        self._reported, self._ended = [], []
        with self._alone():
            for number, step, value in reported:
                self._storage.set_trial_intermediate_value(self._ids[number], step, value)
            for number, attributes in ended:
                stored, trial = self._ids.pop(number), self.trial(number)
                for key, content in attributes.items():
                    self._storage.set_trial_user_attr(stored, key, content)
                self._storage.set_trial_state_values(stored, trial.state, trial.values)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Raise an error on writing to trials that another process has ended, or deleted with their study."""
        try:
            yield
        except UpdateFinishedTrialError:
            raise self._conflict("it ended a running trial") from None
        except KeyError:
            raise self._conflict("it deleted a running trial") from None

    def _conflict(self, what: str) -> StudyConflict:
        return StudyConflict(
            f"study {self.study.study_name!r}: another process has changed it: {what}. Stop that process, and run "
            "the same command again."
        )
