"""A study's trials: read from its database in a few statements, and kept in memory by the driver that holds it.

Optuna reads a trial through an object a row, 0.5 ms and more a trial, and looks at its database at each call.
One driver holds a study, so what it has read once it only has to change as it goes: the sampler and the pruner look
at a study in memory, and each change is written to the database as well.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


class Shown(optuna.Study):
    """A study with these trials instead of those in its storage."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self._shown = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [t for t in self._shown if states is None or t.state in states]


class Kept:
    """The trials of a study, for the one driver that holds it; a trial's number is its id here.

    Attributes:
        study: in memory: what is asked of it, reported and told has to be written with `add`, `report` and `tell`.
    """

    def __init__(self, storage: RDBStorage, stored: optuna.Study) -> None:
        self._storage, self._stored = storage, stored
        self._memory = InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._memory, study_name=stored.study_name, directions=stored.directions, pruner=stored.pruner
        )
        self._ids: list[int] = []  # in the database
        self._attrs = storage.get_study_system_attrs(stored._study_id)  # how far a sampler's sequence is
        for name, content in self._attrs.items():
            self._memory.set_study_system_attr(self.study._study_id, name, content)
        for frozen in read_trials(storage, stored):
            self._memory.create_new_trial(self.study._study_id, template_trial=frozen)
            self._ids.append(frozen._trial_id)

    def __len__(self) -> int:
        return self._memory.get_n_trials(self.study._study_id)

    def having(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in one of `states`, by number."""
        return self.study.get_trials(deepcopy=False, states=states)

    def trial(self, number: int) -> FrozenTrial:
        """One trial as it is now."""
        return self._memory.get_trial(number)

    def read(self) -> Shown:
        """The study as its database holds it."""
        return Shown(self._stored, read_trials(self._storage, self._stored))

    def add(self, number: int) -> None:
        """Write a trial that was asked, with its parameters; of one that is there already, what it lacks."""
        frozen = self.trial(number)
        attrs = self._memory.get_study_system_attrs(self.study._study_id)
        for name in [name for name in attrs if attrs[name] != self._attrs.get(name)]:
            self._storage.set_study_system_attr(self._stored._study_id, name, attrs[name])
            self._attrs[name] = attrs[name]
        if number == len(self._ids):
            self._ids.append(self._storage.create_new_trial(self._stored._study_id, template_trial=frozen))
            return
        there, trial_id = self._storage.get_trial(self._ids[number]), self._ids[number]
        for name in frozen.params.keys() - there.params.keys():
            distribution = frozen.distributions[name]
            value = distribution.to_internal_repr(frozen.params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        for name in frozen.system_attrs.keys() - there.system_attrs.keys():
            self._storage.set_trial_system_attr(trial_id, name, frozen.system_attrs[name])
        for name in frozen.user_attrs.keys() - there.user_attrs.keys():
            self._storage.set_trial_user_attr(trial_id, name, frozen.user_attrs[name])

    def report(self, trial: optuna.Trial, step: int, value: float) -> None:
        """Record an intermediate value; the first of a step stands."""
        if step not in self.trial(trial.number).intermediate_values:
            self._storage.set_trial_intermediate_value(self._ids[trial.number], step, value)
            trial.report(value, step)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> None:
        """End a trial; its attributes `attrs` say how."""
        trial_id = self._ids[trial.number]
        for name, content in attrs.items():
            self._storage.set_trial_user_attr(trial_id, name, content)
            trial.set_user_attr(name, content)
        frozen = self.study.tell(trial, value, state=state)
        self._storage.set_trial_state_values(trial_id, state, frozen.values)
        self.trial(trial.number).datetime_complete = self._storage.get_trial(trial_id).datetime_complete


# --- reading -------------------------------------------------------------------------------------


def read_trials(storage: RDBStorage, study: optuna.Study) -> list[FrozenTrial]:
    """What `study.get_trials(deepcopy=False)` returns of a study in `storage`, in a tenth of the time."""
    trial, ours = models.TrialModel, models.TrialModel.study_id == study._study_id
    with storage.engine.connect() as connection:
        read = _Reader(connection, ours)
        trials = connection.execute(sqlalchemy.select(trial.__table__).where(ours).order_by(trial.trial_id)).all()
        params = read.of(models.TrialParamModel)
        values = read.of(models.TrialValueModel)
        reported = read.of(models.TrialIntermediateValueModel)
        user, system = read.of(models.TrialUserAttributeModel), read.of(models.TrialSystemAttributeModel)
    decoded = cache(json_to_distribution)
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=_values(values[row.trial_id]),
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=dict(_params(params[row.trial_id], decoded)),
            distributions={p.param_name: decoded(p.distribution_json) for p in params[row.trial_id]},
            user_attrs={a.key: json.loads(a.value_json) for a in user[row.trial_id]},
            system_attrs={a.key: json.loads(a.value_json) for a in system[row.trial_id]},
            intermediate_values={v.step: _reported(v) for v in reported[row.trial_id]},
            trial_id=row.trial_id,
        )
        for row in trials
    ]


class _Reader:
    """Reads the rows that belong to a study's trials, a table in a statement."""

    def __init__(self, connection: sqlalchemy.Connection, ours: sqlalchemy.ColumnElement[bool]) -> None:
        self._connection, self._ours = connection, ours

    def of(self, model: Any) -> defaultdict[int, list[Any]]:
        """The rows of a table by trial, in the order in which they were written."""
        table, trials = model.__table__, models.TrialModel.__table__
        (key,) = table.primary_key
        statement = sqlalchemy.select(table).join(trials, table.c.trial_id == trials.c.trial_id)
        rows: defaultdict[int, list[Any]] = defaultdict(list)
        for row in self._connection.execute(statement.where(self._ours).order_by(key)):
            rows[row.trial_id].append(row)
        return rows


def _params(rows: Sequence[Any], decoded: Any) -> Iterator[tuple[str, Any]]:
    for row in rows:
        distribution: BaseDistribution = decoded(row.distribution_json)
        yield row.param_name, distribution.to_external_repr(row.param_value)


def _values(rows: Sequence[Any]) -> list[float] | None:
    by_objective = sorted(rows, key=lambda row: row.objective)
    return [models.TrialValueModel.stored_repr_to_value(r.value, r.value_type) for r in by_objective] or None


def _reported(row: Any) -> float:
    value, kind = row.intermediate_value, row.intermediate_value_type
    return models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(value, kind)


def _local(utc: dt.datetime | None) -> dt.datetime | None:
    """A time in UTC, as databases have it, in the time of this machine, as Optuna hands it out."""
    return None if utc is None else utc.replace(tzinfo=dt.UTC).astimezone().replace(tzinfo=None)
