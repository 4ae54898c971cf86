from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.config import RunConfig
from sweeper.study import samplers
from sweeper.study.opening import open_study
from sweeper.study.samplers import BEST, make_sampler, window
from sweeper.study.space import default_space
from sweeper.study.study import Study, StudySettings
from sweeper.study.trials import read_trials

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SETTINGS = StudySettings(RunConfig(dataset="sample"), default_space(), dataset_sha256="0" * 64, seed=3)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def storage(url: str) -> Iterator[optuna.storages.RDBStorage]:
    made = optuna.storages.RDBStorage(url)
    yield made
    made.engine.dispose()


def accuracy(config: RunConfig) -> float:
    return 0.6 + len(config.placement.value) / 100 - (config.head_dropout - 0.3) ** 2 + config.batch_size / 9000


# --- read in bulk ----------------------------------------------------------------------------------


def test_trials_are_read_as_optuna_reads_them(url: str, storage: optuna.storages.RDBStorage) -> None:
    optuna.create_study(storage=storage, study_name="another").add_trial(optuna.trial.create_trial(value=1.0))
    study = optuna.create_study(storage=storage, study_name="demo", direction="maximize")
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING):
        trial = study.ask()
        SETTINGS.space.suggest(SETTINGS.base, trial)
        for step, value in enumerate((0.1 + 0.2, math.inf, -math.inf)):
            trial.report(value, step)
        trial.set_user_attr("reason", {"in": ["words"]})
        study._storage.set_trial_system_attr(trial._trial_id, "of", "optuna")
        if state != TrialState.RUNNING:
            study.tell(trial, 1 / 3 if state == TrialState.COMPLETE else None, state=state)
    study.enqueue_trial({"batch_size": 64})
    read = read_trials(storage, study._study_id)
    assert read == study.get_trials(deepcopy=False)
    assert [t.datetime_complete for t in read] == [t.datetime_complete for t in study.trials]
    assert list(read[0].params) == list(study.trials[0].params)  # in the order of asking


def test_a_study_without_trials_is_read(storage: optuna.storages.RDBStorage) -> None:
    assert read_trials(storage, optuna.create_study(storage=storage)._study_id) == []


# --- kept in memory --------------------------------------------------------------------------------


def without_time(trial: FrozenTrial) -> FrozenTrial:
    trial.datetime_start = trial.datetime_complete = None
    return trial


def plain(name: str, number: int) -> optuna.samplers.BaseSampler:
    """What `make_sampler` gives, without a window."""
    if name != "tpe":
        return make_sampler(name, SETTINGS.seed, number)
    seed = (SETTINGS.seed * 1_000_003 + number) % 2**32
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def driven_by_optuna(sampler: str, url: str, trials: int) -> list[FrozenTrial]:
    """The slow way: each call looks at the database, two trials at a time."""
    study = optuna.create_study(storage=url, direction="maximize", pruner=optuna.pruners.PercentilePruner(
        75.0, n_startup_trials=5, n_warmup_steps=3))  # fmt: skip
    running: list[tuple[optuna.Trial, float]] = []
    for number in range(trials):
        study.sampler = plain(sampler, number)
        trial = study.ask()
        config = SETTINGS.space.suggest(SETTINGS.base, trial)
        trial.set_user_attr("key", config.key)
        running.append((trial, accuracy(config)))
        if len(running) == 2:
            _end_slowly(study, *running.pop(0))
    return study.get_trials()


def _end_slowly(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    for step in (1, 4):
        trial.report(value * step / 4, step)
        if trial.should_prune():
            trial.set_user_attr("reason", "pruned")
            study.tell(trial, state=TrialState.PRUNED)
            return
    trial.set_user_attr("val_loss", 1 - value)
    study.tell(trial, value)


def driven_by_us(sampler: str, url: str, trials: int) -> list[FrozenTrial]:
    """The same through `Study`, closed and opened again each fifth trial."""
    running: list[tuple[int, float]] = []
    study = open_study("demo", replace(SETTINGS, sampler=sampler), url)
    for number in range(trials):
        if number % 5 == 4:
            study.close()
            study = open_study("demo", replace(SETTINGS, sampler=sampler), url)
            running = [(trial.number, accuracy(trial.config)) for trial in study.unfinished()]
        trial = study.ask()
        running.append((trial.number, accuracy(trial.config)))
        if len(running) == 2:
            _end(study, *running.pop(0))
    study.close()
    return optuna.load_study(study_name="demo", storage=url).get_trials()


def _end(study: Study, number: int, value: float) -> None:
    for step in (1, 4):
        if study.report(number, step, value * step / 4):
            study.prune(number, "pruned")
            return
    study.complete(number, value, 1 - value)


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_study_kept_in_memory_asks_and_writes_what_optuna_does_at_its_database(tmp_path: Path, sampler: str) -> None:
    slow = driven_by_optuna(sampler, f"sqlite:///{tmp_path / 'slow.db'}", 19)
    ours = driven_by_us(sampler, f"sqlite:///{tmp_path / 'ours.db'}", 19)
    assert {t.state for t in ours} >= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    assert [without_time(t) for t in ours] == [without_time(t) for t in slow]


def test_a_trial_that_was_torn_while_it_was_asked_is_completed(url: str, storage: optuna.storages.RDBStorage) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        asked = study.ask()
    torn = optuna.load_study(study_name="demo", storage=storage)
    again = torn.ask()  # a driver of an earlier version, killed before it wrote a parameter
    with closing(open_study("demo", SETTINGS, url)) as study:
        first, second = study.unfinished()
    assert (first.number, first.config, second.number) == (0, asked.config, again.number)
    written = read_trials(storage, torn._study_id)[1]
    assert written.params["placement"] == second.config.placement.value
    assert written.user_attrs["key"] == second.config.key


# --- the window ------------------------------------------------------------------------------------


def searched(trials: int, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """A study in memory; every fourth trial is pruned, and the last one runs."""
    study = optuna.create_study(direction="maximize", sampler=sampler or optuna.samplers.RandomSampler(0))
    for number in range(trials):
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1)
        trial.report(value, 1)
        if number % 4 == 3:
            study.tell(trial, state=TrialState.PRUNED)
        elif number < trials - 1:
            study.tell(trial, value)
    return study


def test_few_trials_are_all_in_the_window() -> None:
    study = searched(50)
    assert window(study) is study


def test_the_window_holds_the_best_the_latest_and_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "WINDOW", 60)
    study = searched(201)
    left = window(study).get_trials(deepcopy=False)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = {t.number for t in sorted(complete, key=lambda t: -t.value)[:BEST]}
    assert best < {t.number for t in left}
    assert left[-1].state == TrialState.RUNNING
    assert len(left) == 60 + 1
    others = [t.number for t in left if t.number not in best and t.state != TrialState.RUNNING]
    assert others == [n for n in range(200) if n not in best][-35:]
    assert [t.number for t in left] == sorted(t.number for t in left)


def test_in_a_window_tpe_still_finds_the_better_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "WINDOW", 60)
    study = searched(120)
    values = []
    for number in range(120, 140):
        study.sampler = make_sampler("tpe", 0, number)
        trial = study.ask()
        values.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, values[-1])
    assert sum(value > 0.5 for value in values) > 15
