"""Samplers and pruners: a study in memory proposes and prunes what Optuna does at its database."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeper.study.memory import Memory
from sweeper.study.opening import open_study
from sweeper.study.samplers import BEST, make_pruner, make_sampler, window
from sweeper.study.space import Range, Space
from tests.study.sweeps import MEMORY, SETTINGS, objective, train, without_times

PLAIN = replace(SETTINGS, seed=3)


def driven_by_optuna(sampler: str, url: str, trials: int) -> list[FrozenTrial]:
    """The slow way: each call looks at the database, two trials at a time."""
    study = optuna.create_study(storage=url, direction="maximize", pruner=make_pruner("percentile"))
    running: list[tuple[optuna.Trial, float]] = []
    for number in range(trials):
        study.sampler = make_sampler(sampler, PLAIN.seed, number)
        trial = study.ask()
        config = PLAIN.space.suggest(PLAIN.base, trial)
        trial.set_user_attr("key", config.key)
        running.append((trial, objective(config)))
        if len(running) == 2:
            _end(study, *running.pop(0))
    return study.get_trials()


def _end(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    for step in (1, 4):
        trial.report(value * (step / 4), step)
        if trial.should_prune():
            trial.set_user_attr("reason", "pruned")
            study.tell(trial, state=TrialState.PRUNED)
            return
    trial.set_user_attr("val_loss", 1 - value)
    study.tell(trial, value)


def driven_by_us(sampler: str, url: str, trials: int) -> list[FrozenTrial]:
    """The same through `Study`, closed and opened again each fifth trial."""
    settings = replace(PLAIN, sampler=sampler)
    study = open_study("demo", settings, url)
    running = []
    for number in range(trials):
        if number % 5 == 4:
            study.close()
            study = open_study("demo", settings, url)
            running = list(study.unfinished())
        running.append(study.ask())
        if len(running) == 2:
            train(study, running.pop(0))
    study.close()
    return optuna.load_study(study_name="demo", storage=url).get_trials()


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_study_kept_in_memory_asks_and_writes_what_optuna_does_at_its_database(tmp_path: Path, sampler: str) -> None:
    slow = driven_by_optuna(sampler, f"sqlite:///{tmp_path / 'slow.db'}", 19)
    ours = driven_by_us(sampler, f"sqlite:///{tmp_path / 'ours.db'}", 19)
    assert {t.state for t in ours} >= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    for trial in ours:
        trial.system_attrs.pop("proposed", None)  # which we keep with the trial, and Optuna with the study
    assert without_times(ours) == without_times(slow)


def test_quasi_random_points_cover_the_space_more_evenly_than_random_ones() -> None:
    space = Space({"conv_dropout": Range(0.0, 0.99), "head_dropout": Range(0.0, 0.99)})
    with closing(open_study("demo", replace(SETTINGS, space=space, sampler="qmc"), MEMORY)) as study:
        configs = [train(study, study.ask()).config for _ in range(17)][1:]  # the first one is random
    cells = {(int(c.conv_dropout / 0.99 * 4), int(c.head_dropout / 0.99 * 4)) for c in configs}
    assert len(cells) == 16  # a Sobol sequence puts one of 16 points into each of 4 x 4 cells


# --- the window ------------------------------------------------------------------------------------


def searched(trials: int) -> list[FrozenTrial]:
    """Random trials; every fourth is pruned, and the last one runs."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for number in range(trials):
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1)
        trial.report(value, 1)
        if number % 4 == 3:
            study.tell(trial, state=TrialState.PRUNED)
        elif number < trials - 1:
            study.tell(trial, value)
    return study.trials


def test_few_trials_are_all_in_the_window() -> None:
    trials = searched(50)
    assert window(trials) == trials


def test_the_window_holds_the_best_the_latest_and_those_that_run() -> None:
    trials = searched(201)
    left = window(trials, 60)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    best = {t.number for t in sorted(complete, key=lambda t: -t.value)[:BEST]}
    assert best < {t.number for t in left}
    assert left[-1].state == TrialState.RUNNING
    assert len(left) == 60 + 1
    others = [t.number for t in left if t.number not in best and t.state != TrialState.RUNNING]
    assert others == [n for n in range(200) if n not in best][-35:]
    assert [t.number for t in left] == sorted(t.number for t in left)


def proposed(study: optuna.Study, number: int) -> float:
    study.sampler = make_sampler("tpe", 0, number)
    return study.ask().suggest_float("x", 0, 1)


def test_tpe_proposes_what_it_would_if_there_were_no_trials_but_those_of_the_window() -> None:
    trials = searched(300)
    seen = window(trials, 60)
    alone = optuna.create_study(direction="maximize")
    alone.add_trials(seen)
    expected = proposed(alone, 300)
    memory = Memory()
    study = optuna.create_study(storage=memory, direction="maximize")
    study.add_trials(trials)
    with memory.showing(seen):
        assert proposed(study, 300) == expected
    assert len(study.trials) == 301
    assert proposed(study, 300) != expected


@pytest.mark.parametrize(
    ("pruner", "ends"), [("percentile", [0.1, 0.59]), ("median", [0.1, 0.59, 0.61, 0.69]), ("none", [])]
)
def test_a_trial_ends_below_the_quartile_or_the_median_of_five_complete_trials(pruner: str, ends: list[float]) -> None:
    """The bar is that of the same epoch, from the third on; the best accuracy so far has to reach it."""
    study = optuna.create_study(direction="maximize")
    five = [optuna.trial.create_trial(value=v, intermediate_values={3: v, 4: v}) for v in (0.5, 0.6, 0.7, 0.8, 0.9)]
    study.add_trials(five[:4])

    def pruned(values: dict[int, float]) -> bool:
        trial = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=values)
        return make_pruner(pruner).prune(study, trial)

    assert not pruned({3: 0.1})
    study.add_trials(five[4:])
    assert not pruned({2: 0.1})
    assert [value for value in (0.1, 0.59, 0.61, 0.69, 0.71) if pruned({3: value})] == ends
    assert not pruned({1: 0.95, 4: 0.1})


def test_a_quarter_at_each_epoch_is_more_than_a_quarter_of_the_trials() -> None:
    """With curves that cross, each epoch tests other trials, and only the complete ones set the bar."""
    study = optuna.create_study(direction="maximize")
    random = np.random.default_rng(0)
    for _ in range(100):
        levels, seen = random.normal(0.8, 0.05) + random.normal(0, 0.03, 12), dict[int, float]()
        for epoch, level in enumerate(levels, 1):
            seen[epoch] = float(level + 0.01 * epoch)
            running = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=seen)
            if ended := make_pruner("percentile").prune(study, running):
                break
        state = TrialState.PRUNED if ended else TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, value=level, intermediate_values=seen))
    assert sum(trial.state == TrialState.PRUNED for trial in study.trials) > 30
