"""What tests of a study share: settings, a sweep without training, and other programs at the same database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import optuna

from sweeper.core.config import RunConfig
from sweeper.core.trial import Trial
from sweeper.study.opening import open_study
from sweeper.study.rows import TrialRow
from sweeper.study.space import default_space
from sweeper.study.study import Study, StudySettings
from tests.support.scored import scored

SETTINGS = StudySettings(RunConfig(dataset="sample"), default_space(), dataset_sha256="0" * 64)
MEMORY = "sqlite://"


class Killed(BaseException):
    """Ends a driver at a transaction."""


@contextlib.contextmanager
def other_program(url: str) -> Iterator[optuna.Study]:
    """The study as a user of Optuna opens it."""
    storage = optuna.storages.RDBStorage(url)
    yield optuna.load_study(study_name="demo", storage=storage)
    storage.engine.dispose()


def enqueue(url: str, **params: Any) -> None:
    with other_program(url) as study:
        study.enqueue_trial(params)


def without_times(trials: list[optuna.trial.FrozenTrial]) -> list[dict[str, Any]]:
    """The trials without ids and times: the database and the memory have each their own."""
    own = {"_trial_id", "datetime_complete", "_datetime_start"}
    return [{key: value for key, value in vars(trial).items() if key not in own} for trial in trials]


def objective(config: RunConfig) -> float:
    """A smooth function of everything that the default space varies."""
    rates = (config.conv_dropout - 0.1) ** 2 + (config.head_dropout - 0.3) ** 2
    return 0.5 + len(config.placement.value) / 100 - rates + config.batch_size / 5000


def train(study: Study, trial: Trial) -> Trial:
    """All there is to a trial, from its first report to its end."""
    value = objective(trial.config)
    for step in (1, 4):
        if study.report(trial.number, step, value * (step / 4)):
            study.prune(trial.number, "pruned")
            return trial
    study.complete(trial.number, scored(value, 1 - value))
    return trial


def sweep(
    settings: StudySettings, url: str, trials: int, torn: set[int] = frozenset(), between: set[int] = frozenset()
) -> tuple[list[Trial], list[TrialRow]]:
    """The trials of a whole sweep, whose driver dies during and after the given ones, and their rows."""
    trained: list[Trial] = []
    while True:
        with closing(open_study("demo", settings, url)) as study:
            trained += [train(study, trial) for trial in study.unfinished()]
            while study.finished() < trials:
                trial = study.ask()
                if trial.number in torn:
                    study.report(trial.number, 1, objective(trial.config) / 4)
                    study.settle()
                    break
                trained.append(train(study, trial))
                if trial.number in between:
                    break
            else:
                return trained, [row._replace(seconds=None) for row in study.rows()]
