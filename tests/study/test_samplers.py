"""Samplers and pruners: a study in memory proposes and prunes what Optuna does at its database."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.config import Placement
from sweeper.core.errors import SpaceError, StudyConflict
from sweeper.study.memory import Memory
from sweeper.study.opening import open_study
from sweeper.study.samplers import BEST, PRUNER, SAMPLER, drawn_at_random, make_pruner, make_sampler, window
from sweeper.study.space import Choice, Range, Space, cells
from sweeper.study.study import StudySettings
from tests.study.sweeps import MEMORY, SETTINGS, objective, train, without_times
from tests.support.scored import scored

PLAIN = replace(SETTINGS, seed=3)


def driven_by_optuna(sampler: str, url: str, trials: int) -> list[FrozenTrial]:
    """The slow way: each call looks at the database, two trials at a time."""
    study = optuna.create_study(storage=url, direction="maximize", pruner=make_pruner("percentile"))
    running: list[tuple[optuna.Trial, float]] = []
    asked: list[dict[str, Any]] = []
    for number in range(trials):
        study.sampler = make_sampler(sampler, PLAIN.seed, number, PLAIN.space)
        trial = study.ask()
        config = PLAIN.space.suggest(PLAIN.base, trial)
        trial.set_user_attr("repetition", asked.count(trial.params))
        asked.append(trial.params)
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


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "gp"])
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
        configs = [train(study, study.ask()).config for _ in range(16)]
    cells = {(int(c.conv_dropout / 0.99 * 4), int(c.head_dropout / 0.99 * 4)) for c in configs}
    assert len(cells) == 16  # a Sobol sequence puts one of 16 points into each of 4 x 4 cells


# --- whole configurations ---------------------------------------------------------------------------


def proposals(settings: StudySettings, trials: int) -> list[dict[str, Any]]:
    """Return the proposals of a sampler whose trials all end at once."""
    with closing(open_study("demo", settings, MEMORY)) as study:
        for _ in range(trials):
            train(study, study.ask())
        return [dict(row.params) for row in study.rows()]


LISTS = Space({"placement": Choice(("bn", "ic", "bn-head-dropout")), "conv_dropout": Choice((0.1, 0.2)),
               "head_dropout": Choice((0.3, 0.5)), "batch_size": Choice((64, 256))})  # fmt: skip


@pytest.mark.parametrize("sampler", ["gp", "qmc"])
def test_rates_are_proposed_with_the_placement_and_recorded_where_it_has_them(sampler: str) -> None:
    found = proposals(replace(PLAIN, sampler=sampler, pruner="none"), 24)
    for params in found:
        rates = {"conv_dropout", "head_dropout"} & params.keys()
        assert rates == {rate for rate in ("conv_dropout", "head_dropout") if Placement(params["placement"]).uses(rate)}
    assert len({params["placement"] for params in found[:10]}) >= 5


def test_no_rate_of_qmc_is_random_though_the_first_trial_has_none() -> None:
    """0.1.0 took the dimensions of the first trial for those of the sequence."""
    space = Space({"placement": Choice(("bn", "bn-head-dropout")), "head_dropout": Range(0.0, 1.0 - 2**-20)})
    found = proposals(replace(PLAIN, sampler="qmc", pruner="none", space=space), 32)
    halves = [int(params["head_dropout"] * 8) for params in found if "head_dropout" in params]
    assert sorted(halves) == sorted([*range(8)] * 2)  # two of the 16 points of a placement in each eighth


def test_gp_finds_a_joint_optimum_that_random_points_miss() -> None:
    def mean(sampler: str) -> float:
        space, base = PLAIN.space, PLAIN.base
        params = proposals(replace(PLAIN, sampler=sampler, pruner="none"), 40)[-15:]
        return sum(objective(space.suggest(base, optuna.trial.FixedTrial(each))) for each in params) / 15

    assert mean("gp") > mean("random") + 0.05


def test_gp_learns_from_pruned_trials_too() -> None:
    """Placement ic is pruned at once; a model of complete trials alone would go on asking for it."""
    settings = replace(PLAIN, sampler="gp", pruner="none", space=Space({"placement": Choice(("bn", "ic")),
                                                                        "conv_dropout": Range(0.0, 0.4)}))  # fmt: skip
    with closing(open_study("demo", settings, MEMORY)) as study:
        for number in range(50):
            placement = study.ask().config.placement
            study.report(number, 1, 0.7 if placement == "ic" else 0.9)
            if placement == "ic":
                study.prune(number, "low")
            else:
                study.complete(number, scored(0.9 + number % 7 / 1000, 0.1))
        assert [row.params["placement"] for row in study.rows()][-15:].count("ic") <= 2


def test_grid_takes_every_cell_in_a_random_order_and_then_each_again() -> None:
    settings = replace(PLAIN, sampler="grid", pruner="none", space=LISTS)
    expected = {frozenset(cell.items()) for cell in cells(LISTS, Placement.NONE)}
    assert len(expected) == 2 + 8 + 4  # bn, ic and bn-head-dropout, by the rates that they have
    found = [frozenset(params.items()) for params in proposals(settings, 2 * len(expected))]
    assert set(found[: len(expected)]) == set(found[len(expected) :]) == expected
    other = [frozenset(params.items()) for params in proposals(replace(settings, seed=4), len(expected))]
    assert set(other) == expected
    assert other != found[: len(expected)]


def test_grid_asks_again_for_a_cell_that_failed() -> None:
    settings = replace(PLAIN, sampler="grid", pruner="none", space=Space({"batch_size": Choice((64, 128, 256))}))
    with closing(open_study("demo", settings, MEMORY)) as study:
        first = study.ask()
        study.fail(first.number, "no memory")
        assert first.config.batch_size in {train(study, study.ask()).config.batch_size for _ in range(3)}


def test_grid_refuses_a_range_by_its_name() -> None:
    with pytest.raises(SpaceError, match=r"conv_dropout is a range, .* a grid needs a list") as caught:
        replace(SETTINGS, sampler="grid")
    assert "\n" not in str(caught.value)


# --- studies of 0.1.0 -------------------------------------------------------------------------------


def made_by_0_1_0(url: str, settings: StudySettings, trials: int) -> list[dict[str, Any]]:
    """Make a study as 0.1.0 did, which recorded no `sampler_space`, and return the parameters of its trials."""
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name="demo", direction="maximize")
    study.set_user_attr("settings", settings.describe())
    study.set_user_attr("uid", "0" * 32)
    for number in range(trials):
        study.sampler = make_sampler(settings.sampler, settings.seed, number)
        trial = study.ask()
        value = objective(settings.space.suggest(settings.base, trial))
        trial.set_user_attr("val_loss", 1 - value)
        study.tell(trial, value)
    found = [dict(trial.params) for trial in study.trials]
    storage.engine.dispose()
    return found


@pytest.mark.parametrize("sampler", ["gp", "qmc"])
def test_a_study_of_0_1_0_goes_on_with_the_sampler_it_had(tmp_path: Path, sampler: str) -> None:
    of_optuna = {"gp": optuna.samplers.GPSampler, "qmc": optuna.samplers.QMCSampler}
    assert isinstance(make_sampler(sampler, 3, 11), of_optuna[sampler])
    old = replace(PLAIN, sampler=sampler, pruner="percentile", joint=False)
    assert "sampler_space" not in old.describe()
    expected = made_by_0_1_0(f"sqlite:///{tmp_path / 'unbroken.db'}", old, 14)
    url = f"sqlite:///{tmp_path / 'broken.db'}"
    made_by_0_1_0(url, old, 11)
    with closing(open_study("demo", replace(PLAIN, sampler="auto", pruner="auto"), url)) as study:
        assert (study.settings.sampler, study.settings.pruner, study.settings.joint) == (sampler, "percentile", False)
        while study.finished() < 14:
            trial = study.ask()
            value = objective(trial.config)
            study.complete(trial.number, scored(value, 1 - value))
        assert [dict(row.params) for row in study.rows()] == expected


def test_a_new_study_records_what_auto_stands_for(url: str) -> None:
    auto = replace(PLAIN, sampler="auto", pruner="auto")
    with closing(open_study("demo", auto, url)) as study:
        assert (study.settings.sampler, study.settings.pruner) == (SAMPLER, PRUNER)
    for same in (auto, replace(PLAIN, sampler=SAMPLER, pruner=PRUNER)):
        open_study("demo", same, url).close()
    with pytest.raises(StudyConflict, match=r"settings \(sampler was 'gp', is 'tpe'\)"):
        open_study("demo", replace(auto, sampler="tpe"), url)


@pytest.mark.parametrize(("joint", "named"), [(True, ()), (False, ("conv_dropout", "head_dropout"))])
def test_dimensions_drawn_at_random_are_named(joint: bool, named: tuple[str, ...]) -> None:
    assert drawn_at_random("gp", PLAIN.space, joint) == drawn_at_random("qmc", PLAIN.space, joint) == named
    assert drawn_at_random("tpe", PLAIN.space, joint) == ()
    assert drawn_at_random("random", PLAIN.space, joint) == tuple(PLAIN.space.describe())
    always = Space({"placement": Choice(("ic", "dropout")), "conv_dropout": Range(0.1, 0.2)})
    assert drawn_at_random("gp", always, joint) == ()


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
    assert window(trials, StudyDirection.MAXIMIZE) == trials


def test_the_window_holds_the_best_the_latest_and_those_that_run() -> None:
    trials = searched(201)
    left = window(trials, StudyDirection.MAXIMIZE, 60)
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
    seen = window(trials, StudyDirection.MAXIMIZE, 60)
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


def test_the_window_of_losses_holds_the_lowest() -> None:
    trials = searched(201)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    lowest = {t.number for t in sorted(complete, key=lambda t: t.value)[:BEST]}
    assert lowest < {t.number for t in window(trials, StudyDirection.MINIMIZE, 60)}


# --- another metric ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["none", "percentile"])
@pytest.mark.parametrize("sampler", ["gp", "tpe", "qmc", "random"])
def test_a_search_for_the_lowest_loss_mirrors_one_for_the_highest_accuracy(sampler: str, pruner: str) -> None:
    """The losses are the negative accuracies; a sweep that sought the highest of them would ask for other trials."""

    def searched_for(metric: str, sign: float) -> list[tuple[str, dict[str, Any]]]:
        with closing(
            open_study("demo", replace(PLAIN, sampler=sampler, pruner=pruner, metric=metric), MEMORY)
        ) as study:
            for number in range(30):
                value = sign * objective(study.ask().config)
                for step in (1, 4):
                    if study.report(number, step, value * (step / 4)):
                        study.prune(number, "pruned")
                        break
                else:
                    study.complete(number, scored(value, value))
            return [(row.state, dict(row.params)) for row in study.rows()]

    expected = searched_for("val/accuracy", 1.0)
    assert searched_for("val/loss", -1.0) == expected
    learns = sampler in ("gp", "tpe") or pruner != "none"
    assert (searched_for("val/loss", 1.0) != expected) == learns
