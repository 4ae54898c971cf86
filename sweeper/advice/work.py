"""The question with everything resolved, and the training of its runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from sweeper.advice.design import Outcome, Outcomes, Plan, Run
from sweeper.advice.pilot import MOST_EPOCHS, Limits
from sweeper.advice.placed import run_words
from sweeper.advice.record import Ended, Record, ended_runs, slug
from sweeper.advice.screening import is_hopeless
from sweeper.core.config import Placement, RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import StudyIncomplete, UsageError
from sweeper.core.names import check_name
from sweeper.core.text import counted
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.engine.choice import ONE_WORKER, Built, EngineChoice
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.folder import orders
from sweeper.sweep.progress import Progress
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed, View
from sweeper.tracking.base import RunInfo, Tracker

FOLDER: Final = "advise-"  # prefix of its name in the journal
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

    def __post_init__(self) -> None:
        check_name(FOLDER + self.name)
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
    """The runs of one batch, stopped early if the screening says so."""

    def __init__(
        self, runs: Sequence[Run], numbers: range, plan: Plan | None, outcomes: Outcomes, base: RunConfig
    ) -> None:
        self.runs = dict(zip(numbers, runs, strict=True))
        trials = [Trial(number, run.configuration(base)) for number, run in self.runs.items()]
        super().__init__(trials, finished=numbers.start)
        self._plan, self._outcomes = plan, dict(outcomes)
        self._curves: dict[int, list[float]] = {number: [] for number in numbers}

    def report(self, number: int, step: int, value: float) -> bool:
        """Return True if a run of the screening is hopeless."""
        run, curve = self.runs[number], self._curves[number]
        curve[step - 1 :] = [value]
        hopeless = self._plan is not None and is_hopeless(self._plan, run, step, value, self._outcomes)
        self._outcomes[run] = Outcome(None, tuple(curve))
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
    ended: dict[Run, Ended] = field(default_factory=dict)

    def read(self) -> None:
        """Read the runs that have ended."""
        self.ended = {each.run: each for each in ended_runs(self.folder, self.record)}

    def outcomes(self) -> dict[Run, Outcome]:
        """The outcomes of screening and comparison."""
        return {run: each.outcome for run, each in self.ended.items() if run.stage in ("screening", "comparison")}

    def train(self, wanted: Sequence[Run], epochs: int, plan: Plan | None = None) -> None:
        """Train those of the runs that have not ended.

        Raises:
            StudyIncomplete: one could not be trained.
        """
        base = self.question.base.derive(epochs=epochs)
        if not (runs := [run for run in wanted if run not in self.ended]):
            return
        done = len(self.ended)
        source = Screened(runs, range(done, done + len(runs)), plan, self.outcomes(), base)
        self.progress.names |= {number: run_words(run) for number, run in source.runs.items()}
        self.progress.target = max(self.progress.target, done + len(runs))
        built = self.engine()

        def describe(trial: Trial) -> RunInfo:
            return self._info(source.runs[trial.number], trial.config, built)

        Driver(source, built.engine, self.tracker, describe, self.view, signals=self.signals,
               orders=partial(orders, self.folder)).run(done + len(runs))  # fmt: skip
        self.read()
        if missing := [run for run in runs if run not in self.ended]:
            reason = next(iter(source.failed.values()), "it was skipped")
            failed = f"{counted(len(missing), 'run')} failed: {run_words(missing[0])} ({reason[:200]})"
            raise StudyIncomplete(f"{failed}. Run the same command again to retry.")

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
