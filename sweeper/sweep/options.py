"""What a sweep was asked for, and what all its parts need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from sweeper.core.environment import Environment
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.engine.choice import MANY, ONE_WORKER, Built, EngineChoice, build
from sweeper.study.space import Space
from sweeper.study.study import Study
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import RETRIES
from sweeper.tracking.base import RunInfo

LEARNING: Final = ("tpe", "gp")  # samplers that choose by the results of earlier trials


@dataclass(frozen=True)
class SweepOptions:
    """What `sweeper optimize` was asked for."""

    study: str
    trials: int
    space: Space
    sampler: str
    pruner: str
    seed: int
    timeout: float | None
    final: bool
    engine: EngineChoice = ONE_WORKER
    retries: int = RETRIES


@dataclass(frozen=True)
class _Sweep:
    """What all parts of a sweep need."""

    env: Environment
    chosen: Chosen
    options: SweepOptions
    images: SharedSplits
    study: Study

    @contextmanager
    def engine(self) -> Iterator[Built | None]:
        """What trains the trials that are missing, or None if none is; closed at the end of the block.

        It is made before the tracker's thread, which needs the variables that workers must not have.
        """
        if self.study.finished() >= self.options.trials and not self.study.running():
            yield None
            return
        missing = max(0, self.options.trials - self.study.finished())
        learning = self.options.sampler in LEARNING
        few = max(1, self.options.trials // 5) if learning and self.options.engine.workers is None else missing
        built = build(self.options.engine, self.chosen.config, self.images, missing, few=few)
        if built.engine.slots == few < missing and built.name in MANY:
            self.env.say(
                f"{few} trials at a time: sampler {self.options.sampler} learns from finished ones, and with more in "
                "flight it would choose blindly; --workers sets another number, --sampler qmc needs no results"
            )
        try:
            yield built
        finally:
            built.engine.close()

    def describe(self, trial: Trial, built: Built) -> RunInfo:
        """The record of a trial."""
        info = describe_run(self.chosen, trial.config, self.images, kind="trial", threads=built.threads,
                            engine=built.name)  # fmt: skip
        study = self.study
        tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(trial.number)}
        return replace(info, key=f"{study.uid}/{trial.number}", name=f"{trial.number:03d} {trial.config.placement}",
                       folder=f"{study.name}/{trial.number:04d}", tags=tags)  # fmt: skip
