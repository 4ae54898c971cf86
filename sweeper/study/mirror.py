"""A study in memory, and behind it the database that outlives this process.

One process at a time writes a study (lock.py), so that what it has written it need not read again. Optuna's own
storage reads all running trials back for each value that a pruner looks at, and takes a transaction for each
parameter: 8 epochs a second with 64 trials in flight (benchmarks/driver_scale.py). Here sampler and pruner see the
memory. A trial begins in one transaction and ends in one; within `together` all trials that began since the last
`begin` share one, and all that ended since the last `settle` another. The values that trials reported since the last
`settle` are written in one as well.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from sweeper.core.errors import StudyConflict
from sweeper.study.trials import read_trials, utc

Written = set[tuple[type[models.BaseModel], str]]  # the names of a trial's rows in a table


class Mirror:
    """A study of the database `storage`, which exists there; `study` is the same in memory."""

    def __init__(self, storage: optuna.storages.RDBStorage, name: str) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        self._memory = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=self._memory, study_name=name, direction="maximize")
        for key, value in storage.get_study_user_attrs(self._study_id).items():
            self.study.set_user_attr(key, value)
        self._system_attrs: dict[str, Any] = {}
        for key, value in storage.get_study_system_attrs(self._study_id).items():  # of samplers that count
            self._memory.set_study_system_attr(self.study._study_id, key, value)
            self._system_attrs[key] = value
        self._ids: list[int] = []  # of the trials in the database, by number
        for trial in read_trials(storage, self._study_id):
            self._ids.append(trial._trial_id)
            self._memory.create_new_trial(self.study._study_id, template_trial=trial)
        self._late = False
        self._begun: list[tuple[Callable[[Session, Sequence[FrozenTrial]], None], FrozenTrial]] = []
        self._reported: list[tuple[int, dict[str, Any]]] = []  # of a trial, by number, a row
        self._ended: list[int] = []
        self._written: dict[int, Written] = {}  # of trials that run, by number

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it is in memory, not a copy."""
        return self._memory.get_trial(self._memory.get_trial_id_from_study_id_trial_number(0, number))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, trials are written by `begin` and `settle` only, and no more if an error ends it."""
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

    def began(self, number: int) -> None:
        """A trial has begun: its row, parameters and attributes are to be written.

        Raises:
            StudyConflict: another process has written to the study; here, or by `begin`.
        """
        self._begins(self._insert, number)

    def taken(self, number: int) -> None:
        """A trial that was enqueued has begun.

        Raises:
            StudyConflict: another process has taken it; here, or by `begin`.
        """
        self._begins(self._take, number)

    def resumed(self, number: int) -> None:
        """A trial goes on that was begun: what its database lacks is to be written, as a driver may have died while it
        wrote."""
        self._begins(self._complete_rows, number)

    def _begins(self, write: Callable[[Session, Sequence[FrozenTrial]], None], number: int) -> None:
        self._begun.append((write, self.trial(number)))  # as it is now: it may be over before it is written
        if not self._late:
            self.begin()

    def begin(self) -> None:
        """Write the trials that have begun since the last call, in one transaction.

        Raises:
            StudyConflict: another process has written to the study.
        """
        begun, self._begun = self._begun, []
        if begun:
            with Session(self._storage.engine) as session, session.begin():
                for write in dict.fromkeys(write for write, _ in begun):
                    write(session, [trial for how, trial in begun if how == write])
                self._write_counters(session)

    def _insert(self, session: Session, trials: Sequence[FrozenTrial]) -> None:
        ours = models.TrialModel.study_id == self._study_id
        found = session.scalar(sqlalchemy.select(sqlalchemy.func.count()).where(ours))
        if found != trials[0].number:
            raise self._conflict(f"{found} trials where there should be {trials[0].number}")
        rows = [
            models.TrialModel(study_id=self._study_id, number=trial.number, state=TrialState.RUNNING,
                              datetime_start=trial.datetime_start)
            for trial in trials
        ]  # fmt: skip
        session.add_all(rows)
        session.flush()
        self._ids += [cast("int", row.trial_id) for row in rows]
        for trial in trials:
            self._written[trial.number] = set()
        self._write_attributes(session.connection(), trials)

    def _take(self, session: Session, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            row = session.get_one(models.TrialModel, self._ids[trial.number])
            if row.state != TrialState.WAITING:
                raise self._conflict(f"and taken trial {trial.number}")
            row.state, row.datetime_start = TrialState.RUNNING, trial.datetime_start
        self._complete_rows(session, trials)

    def _complete_rows(self, session: Session, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            row = session.get_one(models.TrialModel, self._ids[trial.number])
            self._written[trial.number] = {
                *((models.TrialParamModel, param.param_name) for param in row.params),
                *((models.TrialSystemAttributeModel, attribute.key) for attribute in row.system_attributes),
                *((models.TrialUserAttributeModel, attribute.key) for attribute in row.user_attributes),
            }
        self._write_attributes(session.connection(), trials)

    def _conflict(self, what: str) -> StudyConflict:
        return StudyConflict(
            f"study {self.study.study_name!r}: another process has written to it, {what}; stop that process, and the "
            "same command continues"
        )

    def refuse(self, number: int, reason: str) -> None:
        """Fail a trial that was enqueued, in one transaction."""
        trial_id = self.trial(number)._trial_id
        self._memory.set_trial_user_attr(trial_id, "reason", reason)
        self._memory.set_trial_state_values(trial_id, TrialState.FAIL)
        with Session(self._storage.engine) as session, session.begin():
            self._complete_rows(session, [self.trial(number)])
            self._write_ends(session.connection(), [self.trial(number)])

    def _write_counters(self, session: Session) -> None:
        model = models.StudySystemAttributeModel
        for key, value in self._memory.get_study_system_attrs(self.study._study_id).items():
            if self._system_attrs.get(key) != value:
                ours = sqlalchemy.select(model).where(model.study_id == self._study_id, model.key == key)
                row = session.scalar(ours) or model(study_id=self._study_id, key=key)
                row.value_json = json.dumps(value)
                session.add(row)
                self._system_attrs[key] = value

    def reported(self, number: int, step: int, value: float) -> None:
        """Note a value that the study did not have, to be written by the next `settle`."""
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        row = {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
        self._reported.append((number, row))

    def ended(self, number: int) -> None:
        """A trial has ended: what was reported, and its attributes, value and state are to be written."""
        self._ended.append(number)
        if not self._late:
            self.settle()

    def settle(self) -> None:
        """Write what was reported, and the trials that have ended, since the last call, in one transaction, after those
        that have begun. What cannot be written is dropped: such a trial is found running by the next driver.

        Raises:
            StudyConflict: another process has written to the study.
        """
        self.begin()
        reported, ended = self._reported, self._ended
        self._reported, self._ended = [], []
        if reported or ended:
            with self._storage.engine.begin() as connection:
                self._check_running(connection, {*ended, *(number for number, _ in reported)})
                rows = [{"trial_id": self._ids[number], **row} for number, row in reported]
                _insert_rows(connection, models.TrialIntermediateValueModel, rows)
                self._write_ends(connection, [self.trial(number) for number in ended])

    def _check_running(self, connection: sqlalchemy.Connection, numbers: set[int]) -> None:
        """Refuse to write of trials that another process has ended, or deleted with their study."""
        trials = models.TrialModel.__table__
        ours = trials.c.trial_id.in_([self._ids[number] for number in numbers])
        running = sqlalchemy.select(sqlalchemy.func.count()).where(ours, trials.c.state == TrialState.RUNNING)
        if gone := len(numbers) - (connection.scalar(running) or 0):
            raise self._conflict(f"and ended or deleted {gone} of the trials that run")

    def _write_ends(self, connection: sqlalchemy.Connection, trials: Sequence[FrozenTrial]) -> None:
        if not trials:
            return
        self._write_attributes(connection, trials)
        values = []
        for trial in trials:
            if trial.value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
                trial_id = self._ids[trial.number]
                values.append({"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind})
        _insert_rows(connection, models.TrialValueModel, values)
        table, bound = models.TrialModel.__table__, sqlalchemy.bindparam
        connection.execute(
            sqlalchemy.update(table)
            .where(table.c.trial_id == bound("of"))
            .values(state=bound("ended_as"), datetime_complete=bound("at")),
            [{"of": self._ids[trial.number], "ended_as": trial.state, "at": utc(trial.datetime_complete)}
             for trial in trials],
        )  # fmt: skip
        for trial in trials:
            self._written.pop(trial.number)

    def _write_attributes(self, connection: sqlalchemy.Connection, trials: Sequence[FrozenTrial]) -> None:
        """Write the parameters and attributes of trials that the database does not have."""
        rows: dict[type[models.BaseModel], list[dict[str, Any]]] = {}
        for trial in trials:
            for model, name, row in _attributes(trial):
                if (model, name) not in self._written[trial.number]:
                    rows.setdefault(model, []).append({"trial_id": self._ids[trial.number], **row})
                    self._written[trial.number].add((model, name))
        for model, missing in rows.items():
            _insert_rows(connection, model, missing)


def _insert_rows(connection: sqlalchemy.Connection, model: type[models.BaseModel], rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sqlalchemy.insert(model.__table__), rows)


def _attributes(trial: FrozenTrial) -> Iterator[tuple[type[models.BaseModel], str, dict[str, Any]]]:
    """The rows of the parameters and attributes of `trial`, each with its table and its name there."""
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        yield models.TrialParamModel, name, {
            "param_name": name,
            "param_value": distribution.to_internal_repr(value),
            "distribution_json": optuna.distributions.distribution_to_json(distribution),
        }  # fmt: skip
    for model, attributes in (
        (models.TrialSystemAttributeModel, trial.system_attrs),
        (models.TrialUserAttributeModel, trial.user_attrs),
    ):
        for key, value in attributes.items():
            yield model, key, {"key": key, "value_json": json.dumps(value)}
