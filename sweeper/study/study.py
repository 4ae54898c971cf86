"""The study: Optuna, driven from one place by ask and tell.

One driver holds a study at a time. Each ask uses a sampler built anew from (seed, trial number),
so that a sweep that was killed and continued asks what an unbroken one would have asked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sweeper.config import RunConfig, check_name, finite
from sweeper.environment import database_url
from sweeper.errors import ServiceUnreachable, StudyConflict, SweeperError, UsageError
from sweeper.importance import Importance, importance_intervals, importances
from sweeper.lock import CONNECT_SECONDS, Lock, acquire, creation
from sweeper.mirror import Mirror
from sweeper.pruning import PRUNERS, Pruner
from sweeper.samplers import make_sampler
from sweeper.space import Choice, Space
from sweeper.trials import FINISHED, Shown, read_trials

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPESampler's `group`


@dataclass(frozen=True)
class StudySettings:
    """What makes a study what it is; a study is continued only with equal ones."""

    base: RunConfig
    space: Space
    dataset_sha256: str
    sampler: str = "tpe"
    pruner: str = "percentile"
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, by name; devices and thread counts are not among them."""
        unused = self.base.later_fields_unused
        base = self.base.model_dump(mode="json", exclude={"device", "experiment", *unused})
        return {
            "direction": "maximize val/accuracy",
            "sampler": self.sampler,
            "pruner": self.pruner,
            "search_seed": self.seed,
            "dataset_sha256": self.dataset_sha256,
            **{f"space.{name}": value for name, value in self.space.describe().items()},
            **{name: value for name, value in base.items() if name not in self.space.dimensions},
        }


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `twin` is an earlier trial, complete, that trained the same network in the same way.
    """

    number: int
    config: RunConfig
    twin: int | None = None


class TrialRow(NamedTuple):
    """One trial as a study records it."""

    number: int
    state: str  # complete, pruned, running, failed; waiting, if it was enqueued and not begun
    value: float | None  # validation accuracy: final, or the last reported
    loss: float | None
    params: Mapping[str, Any]
    epochs: int
    seconds: float | None
    reason: str


@dataclass
class Study:
    """An open study, held by this process until `close`."""

    name: str
    settings: StudySettings
    _mirror: Mirror
    _pruner: Pruner
    _lock: Lock
    _resources: contextlib.ExitStack
    continued: bool
    _live: dict[int, optuna.Trial] = field(default_factory=dict)
    _trained: dict[str, int] = field(default_factory=dict)  # the first complete trial of each key
    _enqueued: deque[int] = field(default_factory=deque)  # and not begun
    _finished: int = 0

    def __post_init__(self) -> None:
        self._enqueued.extend(frozen.number for frozen in _waiting(self._optuna))
        for frozen in self._optuna.get_trials(deepcopy=False, states=FINISHED):
            self._count(frozen)

    @property
    def _optuna(self) -> optuna.Study:
        return self._mirror.study

    @property
    def uid(self) -> str:
        """An identity that outlives the name: a deleted and recreated study is another one."""
        return str(self._optuna.user_attrs["uid"])

    def finished(self) -> int:
        """Number of trials that are complete or pruned."""
        return self._finished

    def failed(self) -> int:
        """Number of trials that failed for good."""
        return len(self._optuna.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    def running(self) -> int:
        """Number of trials that a driver has begun, this one or an earlier one, and not ended."""
        return len(self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def together(self) -> AbstractContextManager[None]:
        """Within the block, trials are written together: those that begin by `begin`, what happens to them by `settle`.
        What was not is dropped if an error ends the block, and written at once outside of one."""
        return self._mirror.together()

    def begin(self) -> None:
        """Write to the database the trials that began since the last call, with their parameters.

        Raises:
            ServiceUnreachable: the database is away, or this process does not hold the study any more.
        """
        self._lock.check()
        self._mirror.begin()

    def unfinished(self) -> Iterator[Trial]:
        """The trials that an earlier driver left running, with the parameters they were given."""
        for frozen in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._optuna.sampler = self._sampler(frozen.number)
            trial = self._suggest(optuna.Trial(self._optuna, frozen._trial_id))
            self._mirror.resumed(frozen.number)
            yield trial

    def ask(self) -> Trial:
        """A new trial, or one that was enqueued with Optuna's `enqueue_trial`, with the parameters that it was given.

        Raises:
            ServiceUnreachable: the database is away, or this process does not hold the study any more.
        """
        self._lock.check()
        number = self._enqueued[0] if self._enqueued else len(self._optuna.get_trials(deepcopy=False))
        self._optuna.sampler = self._sampler(number)
        trial = self._suggest(self._optuna.ask())  # Optuna asks the enqueued ones first, by number
        if self._enqueued:
            self._mirror.taken(self._enqueued.popleft())
        else:
            self._mirror.began(number)
        return trial

    def _sampler(self, number: int) -> BaseSampler:
        return make_sampler(self.settings.sampler, self.settings.seed, number)

    def _suggest(self, trial: optuna.Trial) -> Trial:
        self._live[trial.number] = trial
        config = self.settings.space.suggest(self.settings.base, trial)
        trial.set_user_attr("key", config.key)
        return Trial(trial.number, config, self._trained.get(config.key))

    def _count(self, frozen: FrozenTrial) -> None:
        """Take note of a trial that is finished."""
        self._finished += 1
        if frozen.state == TrialState.COMPLETE:
            self._pruner.complete(frozen.intermediate_values)
            key = frozen.user_attrs.get("key")
            if key is not None:
                self._trained[key] = min(frozen.number, self._trained.get(key, frozen.number))

    def report(self, number: int, step: int, value: float) -> bool:
        """Record an intermediate value; True asks to prune the trial."""
        if step not in self._mirror.trial(number).intermediate_values:  # else it is continued: the first report stands
            self._live[number].report(value, step)
            self._mirror.reported(number, step, value)
        # Of a continued trial the pruner shall not see what came after that step before the interruption, or it would
        # be judged by its last value at its first.
        seen = self._mirror.trial(number).intermediate_values
        return self._pruner.prunes({epoch: value for epoch, value in seen.items() if epoch <= step})

    def settle(self) -> None:
        """Write to the database what was reported, and the trials that ended, since the last call."""
        self._mirror.settle()

    def complete(self, number: int, accuracy: float, loss: float) -> None:
        """A trial reached its end; `loss` breaks ties."""
        if not (finite(accuracy) and finite(loss)):
            raise ValueError(f"trial {number}: accuracy {accuracy}, loss {loss}: not finite")
        trial = self._live.pop(number)
        trial.set_user_attr("val_loss", loss)
        self._tell(trial, accuracy)

    def prune(self, number: int, reason: str) -> None:
        """A trial was stopped early: by the pruner, or because it diverged."""
        trial = self._live.pop(number)
        trial.set_user_attr("reason", reason)
        self._tell(trial, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """A trial could not be trained; it does not count towards the number that was asked for."""
        trial = self._live.pop(number)
        trial.set_user_attr("reason", reason)
        if details:
            trial.set_user_attr("traceback", details)
        self._tell(trial, state=TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> None:
        self._optuna.tell(trial, value, state=state)
        told = self._mirror.trial(trial.number)
        if told.state in FINISHED:
            self._count(told)
        self._mirror.ended(trial.number)

    def set_target(self, trials: int, workers: int) -> None:
        """Record how many trials are wanted, for whoever watches."""
        self._mirror.set_user_attr("target", trials)
        self._mirror.set_user_attr("workers", workers)

    def rows(self) -> list[TrialRow]:
        """Every trial so far."""
        return [_row(frozen) for frozen in self._optuna.get_trials(deepcopy=False)]

    def best(self) -> Trial | None:
        """The complete trial of highest accuracy, ties by loss, or None."""
        row = best_row(self.rows())
        if row is None:
            return None
        fixed = optuna.trial.FixedTrial(dict(row.params), number=row.number)
        return Trial(row.number, self.settings.space.suggest(self.settings.base, fixed))

    def importances(self) -> list[tuple[str, float]]:
        """Share of the accuracy's variance that each parameter explains (PED-ANOVA), largest first."""
        return importances(self._optuna)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block, a database that goes away is an error in one line.

        Raises:
            ServiceUnreachable: it went away; the study can be continued once it is back.
            SweeperError: it is a file that cannot be written, on a full disk for example.
        """
        try:
            yield
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError) as error:
            cause = error.__cause__ or error
            origin = getattr(cause, "orig", cause)
            reason = " ".join(str(origin).split())[:300]
            if isinstance(origin, sqlite3.Error):  # a file, no service
                raise SweeperError(
                    f"study {self.name!r} cannot be written ({reason}); the same command continues it once it can"
                ) from None
            raise ServiceUnreachable(
                f"the database of study {self.name!r} went away ({reason}); the same command continues it"
            ) from None

    def record(self) -> StudyRecord:
        """All that the study holds, for a report."""
        return _record(self._optuna)

    def close(self) -> None:
        """Close the database, and let another driver hold the study."""
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # it is away, and has been told of already
            self.settle()
        self._resources.close()


def best_row(rows: list[TrialRow]) -> TrialRow | None:
    """The complete trial of highest accuracy, ties by loss, then by number; None if there is none."""
    complete = [r for r in rows if r.state == "complete" and r.value is not None]
    return max(complete, key=lambda r: (r.value, -(r.loss or 0.0), -r.number), default=None)


# --- opening -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _storage(url: sqlalchemy.URL, *, create: bool) -> Iterator[optuna.storages.RDBStorage]:
    """The database of `url`; its connections are closed at the end of the block.

    With `create`, an empty one gets the tables of studies.

    Raises:
        UsageError: the database is another program's, or it is empty and to be read.
    """
    sqlite = url.get_backend_name() == "sqlite"
    options = {"timeout": 60} if sqlite else {"connect_timeout": CONNECT_SECONDS}
    shown = url.render_as_string(hide_password=True)
    try:
        tables = _tables(url, options)
        if "studies" not in tables and (tables or not create):
            held = f"which is another program's, with tables such as {tables[0]!r}" if tables else "which is empty"
            raise UsageError(f"storage {shown}: no study is in this database, {held}")
        storage = optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False), engine_kwargs={"connect_args": options, "pool_pre_ping": True}
        )
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())[:300].replace(url.password or "\0", "***")
        kind = SweeperError if sqlite else ServiceUnreachable
        raise kind(f"storage {shown}: {reason}") from None
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _tables(url: sqlalchemy.URL, options: Mapping[str, Any]) -> list[str]:
    """The names of the tables in the database of `url`; nothing is created there."""
    engine = sqlalchemy.create_engine(url, connect_args=dict(options), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return sqlalchemy.inspect(connection).get_table_names()


def open_study(name: str, settings: StudySettings, storage_url: str) -> Study:
    """Create the study, or continue it where it stopped.

    Raises:
        UsageError: the name or the URL is wrong.
        StudyConflict: another driver holds the study, or it has other settings; or a trial was enqueued that is
            outside the space, which is failed by this call.
        ServiceUnreachable: the database does not answer.
    """
    check_name(name)
    url = database_url(storage_url)
    with contextlib.ExitStack() as resources:
        lock = acquire(url, name)
        resources.callback(lock.release)
        with creation(url):
            storage = resources.enter_context(_storage(url, create=True))
        known = name in [s.study_name for s in storage.get_all_studies()]
        if known:
            _check_settings(name, storage, settings)
        optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        mirror = Mirror(storage, name)
        if "settings" not in mirror.study.user_attrs:
            mirror.set_user_attr("uid", uuid.uuid4().hex)
            mirror.set_user_attr("settings", settings.describe())
        _check_enqueued(name, mirror, settings.space)
        pruner = PRUNERS[settings.pruner]()
        return Study(name, settings, mirror, pruner, lock, resources.pop_all(), continued=known)


def _check_settings(name: str, storage: optuna.storages.BaseStorage, settings: StudySettings) -> None:
    study_id = storage.get_study_id_from_name(name)
    stored = storage.get_study_user_attrs(study_id).get("settings")
    directions = [d.name for d in storage.get_study_directions(study_id)]
    if directions != ["MAXIMIZE"] or (stored is None and storage.get_n_trials(study_id)):
        raise StudyConflict(f"study {name!r} was not made by sweeper; choose another name with --study")
    wanted = json.loads(json.dumps(settings.describe()))
    if stored is not None and stored != wanted:
        keys = [k for k in sorted(stored.keys() | wanted.keys()) if stored.get(k) != wanted.get(k)]
        changes = "; ".join(f"{k} was {stored.get(k)!r}, is {wanted.get(k)!r}" for k in keys)
        raise StudyConflict(
            f"study {name!r} has other settings ({changes}); continue it with the old ones, or choose another --study"
        )


def _waiting(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were enqueued and have not begun, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def _check_enqueued(name: str, mirror: Mirror, space: Space) -> None:
    """Fail the trials that were enqueued and cannot be trained: nothing else takes them out of the queue.

    Raises:
        StudyConflict: there were some.
    """
    found = [(frozen.number, _outside(space, frozen)) for frozen in _waiting(mirror.study)]
    refused = [(number, reason) for number, reason in found if reason]
    for number, reason in refused:
        mirror.refuse(number, f"enqueued with {reason}")
    if refused:
        shown = "; ".join(f"trial {number} was enqueued with {reason}" for number, reason in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise StudyConflict(
            f"study {name!r}: {shown}{more}; what was refused is recorded as failed, and the same command goes on "
            "without it"
        )


def _outside(space: Space, frozen: FrozenTrial) -> str:
    """What of an enqueued trial is not in the space, and what is; empty if all of it is."""
    if frozen.params:  # by `add_trial`: `enqueue_trial` leaves the distributions to the space
        return "distributions of its own; use Optuna's enqueue_trial"
    for parameter, value in frozen.system_attrs.get("fixed_params", {}).items():
        dimension = space.dimensions.get(parameter)
        shown = f"{str(parameter)[:60]}={value!r:.60}"
        if dimension is None:
            return f"{shown!r}, which the search space does not have; it has {', '.join(space.dimensions)}"
        if isinstance(dimension, Choice):
            if not any(type(value) is type(known) and value == known for known in dimension.values):
                return f"{shown!r}, outside the search space: one of {', '.join(map(str, dimension.values))}"
        elif type(value) not in (int, float) or not dimension.low <= value <= dimension.high:
            return f"{shown!r}, outside the search space: {dimension.low:g} to {dimension.high:g}"
    return ""


# --- reading, for whoever watches ------------------------------------------------------------------


class StudyView(NamedTuple):
    """A study as another process sees it."""

    name: str
    target: int
    workers: int
    rows: list[TrialRow]


def read_study(name: str | None, storage_url: str) -> StudyView:
    """Read a study, by default the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    with _loaded(name, storage_url) as study:
        attrs = study.user_attrs
        return StudyView(
            name=study.study_name,
            target=int(attrs.get("target", 0)),
            workers=int(attrs.get("workers", 1)),
            rows=[_row(frozen) for frozen in study.get_trials(deepcopy=False)],
        )


@contextlib.contextmanager
def _loaded(name: str | None, storage_url: str) -> Iterator[optuna.Study]:
    """The study `name`, or the one created last, to be read.

    Raises:
        UsageError: there is no such study.
    """
    url = database_url(storage_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise UsageError(
            f"storage {url.database}: no such file; run `sweeper optimize` first, or name it with --storage"
        )
    with _storage(url, create=False) as storage:
        names = [s.study_name for s in storage.get_all_studies()]
        if not names or (name is not None and name not in names):
            raise UsageError(f"study {name!r}: not in {url.database}, which holds: {', '.join(names) or 'no study'}")
        study = optuna.load_study(study_name=name or names[-1], storage=storage)
        yield Shown(study, read_trials(storage, study._study_id))


def _row(frozen: FrozenTrial) -> TrialRow:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
              TrialState.WAITING: "waiting", TrialState.RUNNING: "running"}  # fmt: skip
    state = states[frozen.state]
    steps = frozen.intermediate_values
    last = steps[max(steps)] if steps else None
    end = frozen.datetime_complete or dt.datetime.now()
    started = frozen.datetime_start
    return TrialRow(
        number=frozen.number,
        state=state,
        value=frozen.value if state == "complete" else last,
        loss=frozen.user_attrs.get("val_loss"),
        params=frozen.params,
        epochs=len(steps),
        seconds=(end - started).total_seconds() if started else None,
        reason=str(frozen.user_attrs.get("reason", "")),
    )


# --- reading, for a report -------------------------------------------------------------------------


class StudyRecord(NamedTuple):
    """A study with all that it holds."""

    name: str
    uid: str
    settings: Mapping[str, Any]
    rows: list[TrialRow]
    curves: Mapping[int, Mapping[int, float]]  # validation accuracy by trial and epoch
    importances: list[Importance]
    began: dt.datetime | None  # in the time of the machine that drove it
    ended: dt.datetime | None


def read_record(name: str | None, storage_url: str) -> StudyRecord:
    """Read all of a study, by default of the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    with _loaded(name, storage_url) as study:
        return _record(study)


def _record(study: optuna.Study) -> StudyRecord:
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    return StudyRecord(
        name=study.study_name,
        uid=str(attrs.get("uid", "")),
        settings=attrs.get("settings", {}),
        rows=[_row(frozen) for frozen in trials],
        curves={frozen.number: frozen.intermediate_values for frozen in trials},
        importances=importance_intervals(study),
        began=min((t.datetime_start for t in trials if t.datetime_start), default=None),
        ended=max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
    )
