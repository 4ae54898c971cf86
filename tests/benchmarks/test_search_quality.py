"""The search benchmark: its optima, its rules on sweeps whose outcome is known, and its pruners on made-up curves."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import search_quality as quality
from benchmarks import search_rules as rules
from benchmarks.search_pruners import Known, forecast, margin, percentile, replay
from benchmarks.search_responses import EPOCHS, RESPONSES, response
from benchmarks.search_sweeps import BUDGET, SAMPLERS, recorded_sweep, sweep

GOOD = {"placement": "bn", "batch_size": 32}  # the best of `discrete`, at 1.8
WORSE = {"placement": "bn", "batch_size": 64}


@pytest.mark.parametrize("name", RESPONSES)
def test_no_configuration_is_better_than_the_optimum(name: str) -> None:
    draw = np.random.default_rng(0)
    placements, sizes = ("none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic"), (32, 128, 512)
    for placement, size in itertools.product(placements, sizes):
        rates = {"conv_dropout": draw.uniform(0.02, 0.4), "head_dropout": draw.uniform(0.05, 0.6)}
        params = {"placement": placement, "batch_size": size, **rates}
        assert response(name).truth(params) <= response(name).optimum + 0.01


def test_the_highest_value_is_judged_by_its_true_mean() -> None:
    found = rules.highest("discrete", [(GOOD, 1.7), (WORSE, 2.3)], 0)
    assert found == pytest.approx((0.25, 2.3 - 1.55))


def test_finalists_find_the_better_configuration_and_report_no_more_than_it_is_worth() -> None:
    tried = [(GOOD, 1.7), (WORSE, 2.3)] * 32 + [(GOOD, 9.9)]  # the last ones are the finalists' budget
    found = [rules.finalists("discrete", tried, repetition, 2, 5) for repetition in range(100)]
    assert np.mean([each.regret for each in found]) < 0.05
    assert abs(np.mean([each.curse for each in found])) < 0.05
    plain = [rules.finalists("discrete", [(GOOD, 1.7)] * BUDGET, repetition, 1, 5).curse for repetition in range(300)]
    assert np.std(plain) == pytest.approx(0.25 / math.sqrt(5), rel=0.15)


def test_a_sweep_is_run_once_and_has_the_noise_of_its_repetition(tmp_path: Path) -> None:
    first = recorded_sweep(tmp_path, "random", "flat", 3)
    assert len(first) == BUDGET
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text().replace("batch_size", "size"))
    assert all("size" in params for params, _ in recorded_sweep(tmp_path, "random", "flat", 3))
    noise = [value - response("flat").truth(params) for params, value in first]
    grid = recorded_sweep(tmp_path, "grid of 40", "flat", 3)
    assert [value - response("flat").truth(params) for params, value in grid] == pytest.approx(noise)
    assert set(SAMPLERS) >= {rules.BASELINE[0], *rules.COMPARED, *quality.PRUNED}


def test_a_sampler_does_not_know_the_trials_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watching(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study: optuna.Study, trial: object) -> dict[str, object]:
            states = [each.state.name for each in study.get_trials(deepcopy=False)]
            seen.append((states.count("COMPLETE"), states.count("RUNNING") - 1))  # less the one that is asked
            return {}

    monkeypatch.setitem(SAMPLERS, "random", lambda seed, number: Watching(number))
    alone, beside = sweep("random", "flat", 3), sweep("random", "flat", 3, at_once=4)
    assert alone == beside  # a random sampler learns nothing
    assert seen == [(n, 0) for n in range(BUDGET)] + [(max(0, n - 3), min(n, 3)) for n in range(BUDGET)]


def test_means_come_with_their_standard_error() -> None:
    assert rules.mean_of([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))


def test_curves_of_dropout_start_lower_and_end_at_the_same_value() -> None:
    quiet, curve = np.zeros(EPOCHS), response("flat").curve
    fast = curve({"placement": "bn"}, 1.0, quiet)
    slow = curve({"placement": "ic", "conv_dropout": 0.2, "head_dropout": 0.4}, 1.0, quiet)
    assert fast[-1] == slow[-1] == 1.0
    assert slow[2] < fast[2] - 2
    assert (np.diff(slow) > 0).all()


RISING = [Known("bn", np.linspace(0, top, EPOCHS)) for top in (1.0, 2.0, 3.0, 4.0, 5.0)]


@pytest.mark.parametrize(
    ("pruner", "value", "pruned"),
    [
        (percentile(50, 3), 1.49, True), (percentile(50, 3), 1.51, False),  # half of 3 at the middle epoch
        (percentile(50, 9), 1.49, False), (percentile(50, 3, within=True), 0.0, False),  # no trial of that placement
        (margin(1.0, 3), 1.49, True), (margin(1.0, 3), 1.51, False),  # a point below 2.5
        (forecast(0, 3), 2.49, True), (forecast(0, 3), 2.51, False),  # it would gain 2.5 at most, to 5
    ],
)  # fmt: skip
def test_pruners_follow_their_rule(pruner: object, value: float, pruned: bool) -> None:
    middle = EPOCHS // 2 + 1
    values = np.array([value] * middle)
    assert pruner(middle, "ic", values, RISING) is pruned  # type: ignore[operator]


def test_a_replay_counts_epochs_and_notes_that_the_best_was_pruned() -> None:
    def at_two(epoch: int, placement: str, values: object, known: object) -> bool:
        return placement == "bn" and epoch == 2

    other = {"placement": "none", "batch_size": 512}
    found = replay(at_two, "discrete", [(other, -0.5), (GOOD, 1.8)], 0)
    assert (found.pruned, found.placements, found.best_pruned) == ([False, True], ["none", "bn"], True)
    assert found.saved == pytest.approx(1 - (EPOCHS + 2) / (2 * EPOCHS))
