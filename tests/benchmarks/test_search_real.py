"""The recorded trainings: how they are recorded and replayed, and Optuna's pruner of folds on them."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import search_folds as folds
from benchmarks import search_recorded as recorded
from benchmarks import search_table as recording
from benchmarks.fair_records import Record
from benchmarks.search_recorded import LEFT_OUT, REAL
from benchmarks.search_responses import response

IC = {"placement": "ic", "conv_dropout": 0.15, "head_dropout": 0.3, "batch_size": 128}  # a cell
SEEDS, EPOCHS = 3, recording.BASE.epochs


def accuracy(params: dict[str, Any], seed: int) -> float:
    """The end of a made-up training: the seeds of a cell lie 0.5 points apart, and its mean is that of seed 1."""
    rates = params.get("conv_dropout", 0.0) + params.get("head_dropout", 0.0)
    return 80 + 4 * rates + np.log2(params["batch_size"]) + 0.5 * (seed - 1)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a table of made-up trainings, and let it be the one that is replayed."""
    record, path = Record(tmp_path / "raw.jsonl", {}), tmp_path / "table.json.gz"
    for entry in recording.wanted(record, SEEDS):
        end = accuracy(entry["params"], entry["seed"]) / 100
        curve = [end - 0.01 * (EPOCHS - epoch) for epoch in range(1, EPOCHS + 1)]
        record.entries.append({**entry, "val_accuracy": curve, "val_loss": [0.5] * EPOCHS, "cpu_s": 1.0})
    for module in (recording, recorded):
        monkeypatch.setattr(module, "TABLE", path)
    recording.write_table(record, argparse.Namespace(seeds=SEEDS, workers=2, raw=tmp_path, save=False), {"cpu": "none"})
    forget()
    yield
    forget()


def forget() -> None:
    recorded.read_table.cache_clear()
    response.cache_clear()


def test_the_recorded_table_is_whole_and_small() -> None:
    about, tables = recorded.read_table()
    cells = sum(each.accuracy[..., 0, 0].size for each in tables.values())
    assert cells >= 120
    assert about["seeds"] >= 3
    assert about["n"] == cells * about["seeds"]
    assert {"cpu", "date", "versions"} <= about["hardware"].keys()
    assert recording.TABLE.stat().st_size < 300_000
    plain = tables["none"]
    assert plain.loss[0].mean(0)[-1] > 1.05 * plain.loss[0].mean(0).min()  # it overfits at the smallest batch size


def test_each_cell_has_a_seed_before_any_has_the_next_and_none_is_trained_twice(tmp_path: Path) -> None:
    record = Record(tmp_path / "raw.jsonl", {})
    everything = recording.wanted(record, 2)
    assert [each["seed"] for each in everything] == [0] * 123 + [1] * 123
    record.add(everything[5])
    assert everything[5] not in recording.wanted(record, 2)
    assert len(recording.wanted(record, 2)) == 245


def test_a_recorded_training_has_a_value_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BASE", recording.BASE.derive(epochs=2, train_images=512))
    found = recording.train({"name": json.dumps(IC), "seed": 1, "params": IC})
    assert (len(found["val_accuracy"]), len(found["val_loss"])) == (2, 2)
    assert all(0 <= value <= 1 for value in found["val_accuracy"])


@pytest.mark.usefixtures("made_up")
def test_the_truth_is_a_cells_mean_and_linear_between_cells() -> None:
    truth = response(REAL)
    assert truth.truth(IC) == pytest.approx(accuracy(IC, 1))
    for changed in ({"batch_size": 64}, {"conv_dropout": 0.3}, {"head_dropout": 0.1}):  # the surface is linear itself
        assert truth.truth(IC | changed) == pytest.approx(accuracy(IC | changed, 1))
    assert truth.truth({"placement": "bn", "batch_size": 256}) == pytest.approx(88.0)
    assert truth.optimum == pytest.approx(80 + 4 * (0.4 + 0.6) + 9)


def test_no_configuration_is_better_than_the_best_cell() -> None:
    draw, truth = np.random.default_rng(0), response(REAL)
    for placement, size in itertools.product(recorded.read_table()[1], (32, 64, 128, 256, 512)):
        rates = {"conv_dropout": draw.uniform(0.02, 0.4), "head_dropout": draw.uniform(0.05, 0.6)}
        assert truth.truth({"placement": placement, "batch_size": size, **rates}) <= truth.optimum


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("rate", [0.15, 0.2])
def test_trainings_scatter_as_the_seeds_do(rate: float) -> None:
    truth, params = response(REAL), IC | {"conv_dropout": rate}
    values = [truth.trained(params, draw) for draw in np.random.default_rng(0).normal(size=3_000)]
    assert truth.noise == pytest.approx(0.5)  # the standard deviation of -0.5, 0 and 0.5
    assert np.mean(values) == pytest.approx(truth.truth(params), abs=0.05)
    assert np.std(values) == pytest.approx(truth.noise, rel=0.05)


@pytest.mark.usefixtures("made_up")
def test_a_seed_that_is_left_out_is_the_truth_and_is_never_trained() -> None:
    truth = response(LEFT_OUT.format(2))
    assert truth.truth(IC) == pytest.approx(accuracy(IC, 2))
    values = {round(truth.trained(IC, draw) - accuracy(IC, 0), 6) for draw in np.random.default_rng(0).normal(size=99)}
    middle = 0.25  # of seeds 0 and 1, 0.5 apart; their deviations are widened by the square root of 2
    assert values == {round(middle + sign * middle * 2**0.5, 6) for sign in (-1, 1)}
    with pytest.raises(KeyError):
        response(LEFT_OUT.format(3))


@pytest.mark.usefixtures("made_up")
def test_a_curve_is_a_recorded_one_that_ends_at_the_value() -> None:
    found = response(REAL).curve(IC | {"conv_dropout": 0.2}, 70.0, np.zeros(EPOCHS))
    assert found[-1] == pytest.approx(70.0)
    assert np.diff(found) == pytest.approx(1.0)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("count", "saved"), [(3, 0.0), (4, 0.0), (5, 1 / 5)])
def test_the_pruner_of_folds_saves_a_fold_only_of_five_or_more(count: int, saved: float) -> None:
    worse = {"placement": "none", "batch_size": 32}  # 4 points below, so that each of its folds is lower
    share, best_pruned = folds.replay(REAL, [(IC, 0.0)] + [(worse, 0.0)] * 9, 0, count)
    assert share == pytest.approx(9 / 10 * saved)
    assert not best_pruned
