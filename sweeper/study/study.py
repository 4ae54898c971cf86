"""The study: Optuna, driven from one place by ask and tell.

One driver holds a study at a time. Each ask builds a new sampler from (seed, trial number),
so that a killed and resumed sweep proposes the same trials as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.core.config import RunConfig, finite
from sweeper.core.dataset import FASHION
from sweeper.core.errors import ServiceUnreachable, SweeperError
from sweeper.core.metric import ACCURACY, LOSS, METRICS, Metric, metric_of
from sweeper.core.trial import Trial, repeat
from sweeper.study.control import RUN, WANTED, WORKERS, Orders, read_orders
from sweeper.study.evidence import Standing, standings
from sweeper.study.lock import Lock
from sweeper.study.mirror import Mirror
from sweeper.study.rows import SKIPPED, StudyRecord, TrialRow, study_record, trial_rows
from sweeper.study.samplers import FINISHED, JOINT, PRUNER, SAMPLER, make_pruner, make_sampler, window
from sweeper.study.space import Space, cells

ASKED_AGAIN: Final = 100  # proposals in a row
REPETITION: Final = "repetition"  # a user attribute of a trial
Params = frozenset[tuple[str, Any]]  # the parameters of a trial, by name

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class StudySettings:
    """The settings that define a study; it is only continued with equal ones."""

    base: RunConfig
    space: Space
    dataset_sha256: str
    sampler: str = "tpe"
    pruner: str = "percentile"
    seed: int = 0
    one_seed: bool = False  # ask again for a configuration that was proposed before, in place of another seed of it
    joint: bool = True  # `gp` and `qmc` see all dimensions together; not in a study that 0.1.0 made
    metric: str = ACCURACY.name  # the name of what is searched for

    def __post_init__(self) -> None:
        if self.sampler == "grid":
            cells(self.space, self.base.placement)

    def as_recorded(self, recorded: Mapping[str, Any]) -> StudySettings:
        """Return the settings with `auto` resolved: to what a study recorded, or of a new study to the default.

        Args:
            recorded: the settings that the study was made with, empty for a new one.
        """
        sampler, pruner = (
            recorded.get(name, default) if given == "auto" else given
            for name, given, default in (("sampler", self.sampler, SAMPLER), ("pruner", self.pruner, PRUNER))
        )
        joint = not recorded or "sampler_space" in recorded or sampler not in JOINT
        metric = metric_of(recorded).name if self.metric == "auto" else self.metric
        return replace(self, sampler=sampler, pruner=pruner, joint=joint, metric=metric)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, by name; devices and thread counts are not among them."""
        unused = self.base.later_fields_unused
        base = self.base.model_dump(mode="json", exclude={"device", "experiment", *unused})
        return {
            "direction": METRICS[self.metric].goal,
            "sampler": self.sampler,
            **({"sampler_space": "joint"} if self.joint and self.sampler in JOINT else {}),
            "pruner": self.pruner,
            "search_seed": self.seed,
            **({"seeds": "one"} if self.one_seed else {}),
            "dataset_sha256": self.dataset_sha256,
            **{f"space.{name}": value for name, value in self.space.describe().items()},
            **{name: value for name, value in base.items() if name not in self.space.dimensions},
        }

    def configuration(self, params: Mapping[str, Any]) -> RunConfig:
        """Return the configuration of a trial's parameters, with the base seed."""
        return self.space.suggest(self.base, optuna.trial.FixedTrial(dict(params)))

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> StudySettings:
        """Return the settings that `describe` has described."""
        fields = {name: value for name, value in described.items() if name in RunConfig.model_fields}
        if described["dataset"] in FASHION:
            del fields["dataset_sha256"]  # which is that of the study, for images of any source
        return cls(
            RunConfig.create(**fields),
            Space.read({name.removeprefix("space."): v for name, v in described.items() if name.startswith("space.")}),
            described["dataset_sha256"],
            described["sampler"],
            described["pruner"],
            described["search_seed"],
            described.get("seeds") == "one",
            "sampler_space" in described or described["sampler"] not in JOINT,
            metric_of(described).name,
        )


@dataclass
class Study:
    """An open study, held by this process until `close`."""

    name: str
    settings: StudySettings
    continued: bool
    _mirror: Mirror
    _lock: Lock
    _resources: contextlib.ExitStack

    def __post_init__(self) -> None:
        self._optuna = self._mirror.study
        self._pruner = make_pruner(self.settings.pruner)
        self._orders = Orders()
        self._begun: dict[Params, int] = {}  # how many trials have these parameters
        self._values: dict[Params, tuple[int, list[float]]] = {}  # of complete trials: the first number, the values
        self._finished = len(self.trials(*FINISHED))
        for row in self.rows():
            if row.state == "complete" and row.copy_of is None:
                self._value(row.number, row.params, row.value or 0.0)
        for frozen in self.trials():
            if frozen.state.is_finished() or REPETITION in frozen.user_attrs:  # else it is counted when it begins
                self._next_repetition(frozen)

    @property
    def metric(self) -> Metric:
        """The metric that the study optimizes."""
        return METRICS[self.settings.metric]

    @property
    def uid(self) -> str:
        """A unique ID: a deleted and recreated study has another one."""
        return str(self._optuna.user_attrs["uid"])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, by default all, by number. They must not be changed."""
        return self._optuna.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> int:
        """Return the number of trials that are complete or pruned."""
        return self._finished

    def failed(self) -> int:
        """Return the number of trials that failed for good."""
        return sum(not frozen.user_attrs.get(SKIPPED) for frozen in self.trials(TrialState.FAIL))

    def running(self) -> int:
        """Return the number of trials that this driver or an earlier one has started and not ended."""
        return len(self.trials(TrialState.RUNNING))

    def waiting(self) -> int:
        """Return the number of enqueued trials that have not started."""
        return len(self.trials(TrialState.WAITING))

    def together(self) -> AbstractContextManager[None]:
        """Within the block, write trials together: those that begin by `begin`, what happens to them by `settle`.
        An error that ends the block drops what is not written. Outside of a block, trials are written at once."""
        return self._mirror.together()

    def begin(self) -> None:
        """Write to the database the trials that began since the last call, with their parameters.

        Raises:
            ServiceUnreachable: the database does not answer, or this process no longer holds the study.
        """
        self._lock.check()
        self._mirror.begin()

    def unfinished(self) -> Iterator[Trial]:
        """Return the trials that an earlier driver left running, with the parameters and seeds they were given."""
        for number in [n for n, frozen in self._mirror.left.items() if frozen.state == TrialState.RUNNING]:
            yield self._begin(optuna.Trial(self._optuna, self._mirror.id_in_memory(number)))

    def ask(self) -> Trial | None:
        """Return a new trial, or one that was enqueued with Optuna's `enqueue_trial`, with its parameters.

        None: the study wants one seed of each configuration, and `ASKED_AGAIN` proposals in a row were not new.

        Raises:
            ServiceUnreachable: the database does not answer, or this process no longer holds the study.
        """
        for _ in range(ASKED_AGAIN):
            self._lock.check()
            trial = self._begin(self._optuna.ask())
            if not (self.settings.one_seed and trial.repetition):
                return trial
            self.skip(trial.number, "its parameters are those of an earlier trial")
        return None

    def _begin(self, trial: optuna.Trial) -> Trial:
        self._optuna.sampler = self._sampler(trial.number)
        with contextlib.ExitStack() as seen:
            if self.settings.sampler == "tpe":
                trials = window(self.trials(), self._optuna.direction)
                seen.enter_context(self._mirror.memory.showing(trials))
            config = self.settings.space.suggest(self.settings.base, trial)
        repetition = self._next_repetition(self._mirror.trial(trial.number))
        trial.set_user_attr(REPETITION, repetition)
        self._mirror.began(trial.number)
        return Trial(trial.number, repeat(config, repetition), repetition)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        settings = self.settings
        space = settings.space if settings.joint else None
        return make_sampler(settings.sampler, settings.seed, number, space, settings.base.placement)

    def _next_repetition(self, frozen: FrozenTrial) -> int:
        """Return how many earlier trials have the parameters of `frozen`, and take note of it."""
        params = frozenset(frozen.params.items())
        known = self._begun.get(params, 0)
        repetition = int(frozen.user_attrs.get(REPETITION, known))
        self._begun[params] = max(known, repetition + 1)
        return repetition

    def report(self, number: int, step: int, value: float) -> bool:
        """Record an intermediate value; True asks to prune the trial."""
        if step not in self._mirror.trial(number).intermediate_values:  # else it is continued: the first report stands
            self._mirror.report(number, step, value)
        # A continued trial is judged by the steps up to this one. It may have later ones from before the interruption.
        seen = {epoch: v for epoch, v in self._mirror.trial(number).intermediate_values.items() if epoch <= step}
        return self._pruner.prune(self._optuna, create_trial(state=TrialState.RUNNING, intermediate_values=seen))

    def settle(self) -> None:
        """Write to the database what was reported, and the trials that ended, since the last call."""
        self._mirror.settle()

    def complete(self, number: int, final: Mapping[str, float]) -> None:
        """End a trial that reached its last epoch, with the final metrics of its run.

        Accuracy and loss are kept along with the optimized value; the loss breaks ties.
        """
        value, beside = final[self.metric.final], {LOSS.key: final[LOSS.final]}
        if self.metric != ACCURACY:
            beside[ACCURACY.key] = final[ACCURACY.final]
        if not all(map(finite, (value, *beside.values()))):
            raise ValueError(f"trial {number}: {self.metric.name} {value}, {beside}: not finite")
        ended = self._mirror.end(number, TrialState.COMPLETE, beside, value)
        self._value(number, ended.params, value)
        self._finished += 1

    def prune(self, number: int, reason: str) -> None:
        """End a trial early: the pruner asked for it, or it diverged."""
        self._mirror.end(number, TrialState.PRUNED, {"reason": reason})
        self._finished += 1

    def skip(self, number: int, reason: str) -> None:
        """End an unwanted trial; it counts neither as finished nor as failed."""
        self._mirror.end(number, TrialState.FAIL, {"reason": reason, SKIPPED: True})

    def fail(self, number: int, reason: str, details: str = "") -> None:
        """End a trial that failed; it does not count towards the requested number."""
        attributes = {"reason": reason} | ({"traceback": details} if details else {})
        self._mirror.end(number, TrialState.FAIL, attributes)

    def set_target(self, trials: int, workers: int, command: str = "") -> None:
        """Record the requested number of trials and the command, for `sweeper status`."""
        self._mirror.set_user_attr("command", command)
        self._mirror.set_user_attr("target", trials)
        self._mirror.set_user_attr("workers", workers)

    def orders(self) -> Orders:
        """Return the orders in the database; the last known ones while it does not answer."""
        with contextlib.suppress(optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError):
            self._orders = read_orders(self._mirror.stored_attributes())
        return self._orders

    def forget_orders(self) -> None:
        """Delete the orders to an earlier driver."""
        if self.orders() != Orders(skipped=self._orders.skipped):
            self._mirror.set_user_attr(WANTED, RUN)
            self._mirror.set_user_attr(WORKERS, None)

    def rows(self) -> list[TrialRow]:
        """Return every trial so far."""
        return trial_rows(self.trials(), self.metric)

    def _value(self, number: int, params: Mapping[str, Any], value: float) -> None:
        self._values.setdefault(frozenset(params.items()), (number, []))[1].append(value)

    def leader(self) -> Standing | None:
        """Return the standing of the best configuration so far, whose key is the number of its first trial."""
        found = standings({str(number): values for number, values in self._values.values()}, self.metric)
        return found[0] if found else None

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block, turn the loss of the database into a one-line error.

        Raises:
            ServiceUnreachable: it does not answer; the study can be continued once it is back.
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
                    f"study {self.name!r} cannot be written ({reason}). Repair that, then run the same command again "
                    "to continue."
                ) from None
            raise ServiceUnreachable(
                f"lost the database of study {self.name!r} ({reason}). Run the same command again to continue."
            ) from None

    def record(self) -> StudyRecord:
        """Return all that the study holds, for a report."""
        return study_record(self.name, self._optuna.user_attrs, self.trials())

    def close(self) -> None:
        """Close the database, and release the study. Unsettled writes are dropped."""
        self._resources.close()
