"""A study in memory, and behind it the database that outlives this process.

One process at a time writes a study (lock.py), so that what it has written it need not read again. Optuna's own
storage reads all running trials back for each value that a pruner looks at, and takes a transaction for each
parameter: 8 epochs a second with 64 trials in flight (benchmarks/driver_scale.py). Here sampler and pruner see the
memory; a trial begins in one transaction and ends in one, and the values that all trials reported since the last
`settle` are written in one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from sweeper.errors import StudyConflict
from sweeper.trials import read_trials


class Mirror:
    """A study of the database `storage`, which exists there; `study` is the same in memory."""

    def __init__(self, storage: optuna.storages.RDBStorage, name: str, pruner: optuna.pruners.BasePruner) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        memory = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=memory, study_name=name, direction="maximize", pruner=pruner)
        for key, value in storage.get_study_user_attrs(self._study_id).items():
            self.study.set_user_attr(key, value)
        self._system_attrs: dict[str, Any] = {}
        for key, value in storage.get_study_system_attrs(self._study_id).items():  # of samplers that count
            memory.set_study_system_attr(self.study._study_id, key, value)
            self._system_attrs[key] = value
        self._ids: list[int] = []  # of the trials in the database, by number
        for trial in read_trials(storage, self._study_id):
            self._ids.append(trial._trial_id)
            memory.create_new_trial(self.study._study_id, template_trial=trial)
        self._reported: list[dict[str, Any]] = []

    def set_user_attr(self, key: str, value: Any) -> None:
        """Give the study an attribute."""
        self.study.set_user_attr(key, value)
        self._storage.set_study_user_attr(self._study_id, key, value)

    def began(self, number: int) -> None:
        """Write a trial with its parameters and attributes, in one transaction.

        Raises:
            StudyConflict: another process has written to the study.
        """
        trial = self.study.get_trials(deepcopy=False)[number]
        with Session(self._storage.engine) as session, session.begin():
            ours = models.TrialModel.study_id == self._study_id
            written = session.scalar(sqlalchemy.select(sqlalchemy.func.count()).where(ours))
            if written != number:
                raise StudyConflict(
                    f"study {self.study.study_name!r}: another process has written to it, {written} trials where there "
                    f"should be {number}; stop that process, and the same command continues"
                )
            row = models.TrialModel(study_id=self._study_id, number=number, state=trial.state,
                                    datetime_start=trial.datetime_start)  # fmt: skip
            session.add(row)
            session.flush()
            trial_id = cast("int", row.trial_id)
            self._ids.append(trial_id)
            session.add_all(_attributes(row, trial))
            self._write_counters(session)

    def taken(self, number: int) -> None:
        """Write that a trial which was enqueued has begun, with its parameters and attributes, in one transaction.

        Raises:
            StudyConflict: another process has taken it.
        """
        trial = self.study.get_trials(deepcopy=False)[number]
        with Session(self._storage.engine) as session, session.begin():
            row = session.get_one(models.TrialModel, self._ids[number])
            if row.state != TrialState.WAITING:
                raise StudyConflict(
                    f"study {self.study.study_name!r}: another process has written to it, and taken trial {number}; "
                    "stop that process, and the same command continues"
                )
            row.state, row.datetime_start = trial.state, trial.datetime_start
            session.add_all(_attributes(row, trial))
            self._write_counters(session)

    def refuse(self, number: int, reason: str) -> None:
        """Fail a trial that was enqueued, in one transaction."""
        memory, trial = self.study._storage, self.study.get_trials(deepcopy=False)[number]
        memory.set_trial_user_attr(trial._trial_id, "reason", reason)
        memory.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        self.ended(number)

    def resumed(self, number: int) -> None:
        """Write of a trial that was begun what its database lacks: a driver may have died while it wrote."""
        trial = self.study.get_trials(deepcopy=False)[number]
        with Session(self._storage.engine) as session, session.begin():
            session.add_all(_attributes(session.get_one(models.TrialModel, self._ids[number]), trial))

    def _write_counters(self, session: Session) -> None:
        model = models.StudySystemAttributeModel
        for key, value in self.study._storage.get_study_system_attrs(self.study._study_id).items():
            if self._system_attrs.get(key) != value:
                ours = sqlalchemy.select(model).where(model.study_id == self._study_id, model.key == key)
                row = session.scalar(ours) or model(study_id=self._study_id, key=key)
                row.value_json = json.dumps(value)
                session.add(row)
                self._system_attrs[key] = value

    def reported(self, number: int, step: int, value: float) -> None:
        """Note a value that the study did not have, to be written by the next `settle`."""
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        self._reported.append({"trial_id": self._ids[number], "step": step, "intermediate_value": stored,
                               "intermediate_value_type": kind})  # fmt: skip

    def settle(self) -> None:
        """Write what was reported since the last call, in one transaction."""
        if self._reported:
            with self._storage.engine.begin() as connection:
                self._write_reported(connection)

    def ended(self, number: int) -> None:
        """Write what was reported, and attributes, value and state of a trial that has ended, in one transaction."""
        trial, trial_id = self.study.get_trials(deepcopy=False)[number], self._ids[number]
        with Session(self._storage.engine) as session, session.begin():
            self._write_reported(session.connection())
            row = session.get_one(models.TrialModel, trial_id)
            row.state, row.datetime_complete = trial.state, trial.datetime_complete
            session.add_all(_attributes(row, trial))
            if trial.value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
                session.add(models.TrialValueModel(trial_id=trial_id, objective=0, value=stored, value_type=kind))

    def _write_reported(self, connection: sqlalchemy.Connection) -> None:
        if self._reported:
            connection.execute(sqlalchemy.insert(models.TrialIntermediateValueModel), self._reported)
            self._reported = []


def _attributes(row: models.TrialModel, trial: FrozenTrial) -> Iterator[models.BaseModel]:
    """The rows of the parameters and attributes of `trial` that the database does not have."""
    params = {param.param_name for param in row.params}
    system, user = ({a.key for a in attributes} for attributes in (row.system_attributes, row.user_attributes))
    for name in [name for name in trial.params if name not in params]:
        distribution = trial.distributions[name]
        yield models.TrialParamModel(
            trial_id=row.trial_id,
            param_name=name,
            param_value=distribution.to_internal_repr(trial.params[name]),
            distribution_json=optuna.distributions.distribution_to_json(distribution),
        )
    for key in [key for key in trial.system_attrs if key not in system]:
        value = json.dumps(trial.system_attrs[key])
        yield models.TrialSystemAttributeModel(trial_id=row.trial_id, key=key, value_json=value)
    for key in [key for key in trial.user_attrs if key not in user]:
        value = json.dumps(trial.user_attrs[key])
        yield models.TrialUserAttributeModel(trial_id=row.trial_id, key=key, value_json=value)
