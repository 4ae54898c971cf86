"""The question with everything resolved, and the training of its runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from sweeper.advice.budget import Budget
from sweeper.advice.design import Outcome, Outcomes, Plan, Run
from sweeper.advice.pilot import MOST_EPOCHS, Limits
from sweeper.advice.placed import run_words
from sweeper.advice.record import Ended, Record, Spent, ended_runs, save, slug
from sweeper.advice.screening import is_hopeless
from sweeper.core.config import Placement, RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import StudyIncomplete, UsageError
from sweeper.core.names import NAME, check_name
from sweeper.core.text import counted
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.engine.choice import ONE_WORKER, Built, EngineChoice
from sweeper.study.control import PAUSE, Orders
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.folder import orders
from sweeper.sweep.progress import Progress
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed, View
from sweeper.tracking.base import RunInfo, Tracker

FOLDER: Final = "advise-"  # prefix of its name in the journal
BURSTS: Final = 4  # the pace is measured over as many epochs of each worker, at the least
DEFAULT_BUDGET: Final = 3600.0  # seconds


@dataclass(frozen=True)
class Asked:
    """The options of `sweeper advise`.

    Attributes:
        config: network, images and recipe in which the placements are compared.
        name: of the advice.
        budget: seconds that all runs may take.
        trainings: number of runs; None: as many as the budget allows.
        epochs: per run; None: the pilot decides.
        placements: to compare; empty: all that the network supports.
        test: retrain the recommendation on all training images, and evaluate it once on the test images.
        register: name of the MLflow model to register the retrained recommendation as; None: do not.
    """

    config: RunConfig
    name: str
    budget: float = DEFAULT_BUDGET
    trainings: int | None = None
    epochs: int | None = None
    placements: tuple[Placement, ...] = ()
    dataset: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    engine: EngineChoice = ONE_WORKER
    test: bool = True
    register: str | None = None

    def __post_init__(self) -> None:
        check_name(FOLDER + self.name)
        if self.register is not None and not NAME.fullmatch(self.register):
            raise UsageError(f"--register {self.register[:60]!r}: use letters, digits, '_', '.' or '-'.")
        if self.register and not self.test:
            raise UsageError("--register registers the retrained recommendation. Leave --no-test out.")
        if not self.budget > 0:
            raise UsageError(f"--budget {self.budget:g}: use a time above 0, such as 15m.")


class Question(NamedTuple):
    """The question, with all open values resolved."""

    asked: Asked
    chosen: Chosen
    placements: tuple[Placement, ...]

    @property
    def base(self) -> RunConfig:
        """The configuration that cells are applied to, with the epochs of the pilot."""
        return self.chosen.config.derive(epochs=self.asked.epochs or MOST_EPOCHS)

    @property
    def limits(self) -> Limits:
        """The user's limits."""
        return Limits(self.asked.budget, self.asked.trainings, self.asked.epochs)

    def settings(self) -> dict[str, Any]:
        """The settings that must stay the same when the command is continued; the budget may grow."""
        asked = self.asked
        return {
            "config": self.base.derive(device="cpu").to_params(), "dataset_sha256": self.chosen.source.spec.sha256,
            "placements": [each.value for each in self.placements], "epochs": asked.epochs,
        }  # fmt: skip


def usual_name(config: RunConfig, dataset: str) -> str:
    """Return the default name: that of the network, and of the images unless they are the default ones."""
    words = [Path(config.model_name.partition(":")[0]).stem] + ([] if dataset == "auto" else [Path(dataset).name])
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:60]


@dataclass
class Pace(Progress):
    """Progress over the runs of `sweeper advise`."""

    pruned_as: str = "stopped"
    names: dict[int, str] = field(default_factory=dict)

    def label(self, trial: Trial) -> str:
        """Stage, placement, rates, learning rate and seed."""
        return self.names[trial.number]


class Screened(Listed):
    """The runs of one batch, stopped early if the screening says so, and none begun that does not fit into the budget.

    `cut` is True once a run was not begun: of the screening, as that run would not end in time, and of the comparison,
    as not all runs of the batch would.
    """

    def __init__(
        self, runs: Sequence[Run], numbers: range, plan: Plan | None, outcomes: Outcomes, base: RunConfig,
        budget: Budget | None = None,
    ) -> None:  # fmt: skip
        self.runs = dict(zip(numbers, runs, strict=True))
        trials = [Trial(number, run.configuration(base)) for number, run in self.runs.items()]
        super().__init__(trials, finished=numbers.start)
        self.cut = False
        self._plan, self._outcomes, self._budget = plan, dict(outcomes), budget
        self._curves: dict[int, list[float]] = {number: [] for number in numbers}
        self._asked = 0

    def ask(self) -> Trial | None:
        """Return the next run, if there is time."""
        if self._plan and self._budget and not self.cut:
            ended = len(self.completed) + len(self.diverged) + len(self.failed)
            screening = next(iter(self.runs.values())).stage == "screening"
            left = (self._asked + 1 if screening else len(self.runs)) - ended
            self.cut = not self._budget.fits(left, self._plan.epochs)
        self._asked += not self.cut
        return None if self.cut else super().ask()

    def report(self, number: int, step: int, value: float) -> bool:
        """Return True if a run of the screening is hopeless."""
        run, curve = self.runs[number], self._curves[number]
        curve[step - 1 :] = [value]
        hopeless = self._plan is not None and is_hopeless(self._plan, run, step, value, self._outcomes)
        self._outcomes[run] = Outcome(None, tuple(curve))
        if self._budget:
            self._budget.tick()
        return hopeless


@dataclass
class Work:
    """The state that the stages of one command share."""

    env: Environment
    question: Question
    folder: Path
    record: Record
    images: SharedSplits
    tracker: Tracker
    signals: Signals
    engine: Callable[[], Built]
    view: View
    progress: Pace
    budget: Budget
    ended: dict[Run, Ended]

    def read(self) -> None:
        """Read the runs that have ended."""
        self.ended = {each.run: each for each in ended_runs(self.folder, self.record)}

    def outcomes(self) -> dict[Run, Outcome]:
        """The outcomes of screening and comparison."""
        return {run: each.outcome for run, each in self.ended.items() if run.stage in ("screening", "comparison")}

    def save(self) -> None:
        """Write the record, with the time used so far."""
        self.record.spent = Spent(self.budget.used(), self.budget.clock())
        save(self.folder, self.record)

    def train(self, wanted: Sequence[Run], epochs: int, plan: Plan | None = None) -> bool:
        """Train those of the runs that have not ended. Return False if there was no time for some.

        Raises:
            StudyIncomplete: one could not be trained.
        """
        base = self.question.base.derive(epochs=epochs)
        if not (runs := [run for run in wanted if run not in self.ended]):
            return True
        done = len(self.ended)
        built, limits = self.engine(), self.question.limits
        budget = None if limits.trainings else self.budget
        if plan:
            self.budget.window = max(plan.epochs * len(plan.placements), BURSTS * built.engine.slots)
        source = Screened(runs, range(done, done + len(runs)), plan, self.outcomes(), base, budget)
        self.progress.names |= {number: run_words(run) for number, run in source.runs.items()}
        self.progress.target = max(self.progress.target, done + len(runs))
        self.drive(source, built)
        self.read()
        missing = [run for run in runs if run not in self.ended]
        if missing and (source.failed or not source.cut):
            reason = next(iter(source.failed.values()), "it was skipped")
            failed = f"{counted(len(missing), 'run')} failed: {run_words(missing[0])} ({reason[:200]})"
            raise StudyIncomplete(f"{failed}. Run the same command again to retry.")
        return not missing

    def drive(self, source: Screened, built: Built) -> None:
        """Train the runs of a batch."""

        def describe(trial: Trial) -> RunInfo:
            return self._info(source.runs[trial.number], trial.config, built)

        Driver(source, built.engine, self.tracker, describe, self.view, signals=self.signals,
               orders=self._orders).run(source.finished() + len(source.runs))  # fmt: skip

    def _orders(self) -> Orders:
        """Return the orders to this command. The clock of the budget stops while it is paused."""
        given = orders(self.folder)
        self.budget.pause(given.wanted == PAUSE)
        return given

    def _info(self, run: Run, config: RunConfig, built: Built) -> RunInfo:
        info = describe_run(self.question.chosen, config, self.images, kind="advise", threads=built.threads,
                            engine=built.name)  # fmt: skip
        name = self.question.asked.name
        tags = {"sweeper.study": FOLDER + name, "sweeper.arm": run.cell.placement.value, "sweeper.stage": run.stage,
                "sweeper.seed": str(config.seed), "mlflow.source.name": "sweeper advise"}  # fmt: skip
        words = f"One run of the advice **{name}**, {run.stage}. "
        return replace(
            info, key=self.record.key(run), name=f"{run.cell.placement.value} {run.stage[0]}{run.seed}",
            folder=f"{self.folder.name}/{run.stage}/{slug(run)}", tags={**info.tags, **tags},
            description=words + info.description,
        )  # fmt: skip
