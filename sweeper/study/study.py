"""The study: Optuna, driven from one place by ask and tell.

One driver holds a study at a time. Each ask uses a sampler built anew from (seed, trial number),
so that a sweep that was killed and continued asks what an unbroken one would have asked.
"""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.config import RunConfig, finite
from sweeper.core.errors import ServiceUnreachable, SweeperError
from sweeper.core.trial import Trial
from sweeper.study.importance import importances
from sweeper.study.lock import Lock
from sweeper.study.mirror import Mirror
from sweeper.study.pruning import Pruner
from sweeper.study.rows import StudyRecord, TrialRow, _record, _row, best_row
from sweeper.study.samplers import make_sampler
from sweeper.study.space import Space
from sweeper.study.trials import FINISHED

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


def _waiting(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were enqueued and have not begun, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
