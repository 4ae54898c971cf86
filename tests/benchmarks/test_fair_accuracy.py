"""The bookkeeping of the fair evaluation: nothing is tuned on test images, and no seed is evaluated twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fair_accuracy as fair
from benchmarks import fair_pages, fair_records
from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, SweeperError, UsageError
from sweeper.core.experiments import FIRST_8, experiment
from sweeper.core.images import Array
from sweeper.data import fashion
from sweeper.data.fashion import SAMPLE, IdxFile, find, read_idx
from sweeper.engine.serial import SerialEngine
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train

BASE = experiment(1, dataset="sample", epochs=2, train_images=200)
SMALL = {"as it is": {}, "slower": {"lr": 1e-5}}
RECIPE = BASE.derive(epochs=1, split="test")


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.engine.choice.cores", lambda: 1)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair, "CANDIDATES", SMALL)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of which the test images are predicted, in order."""
    seen: list[int] = []
    predict = fair.predict_weights

    def counted(config: RunConfig, weights: Any, images: Any) -> Any:
        assert len(images) == 1000
        seen.append(config.seed)
        return predict(config, weights, images)

    monkeypatch.setattr(fair, "predict_weights", counted)
    return seen


def evaluate(path: Path, seeds: int, config: RunConfig = RECIPE, sha256: str = "a") -> list[dict[str, Any]]:
    return fair.evaluate(config, sha256, find("sample"), path, seeds, 1)


# --- tuning ---------------------------------------------------------------------------------------


def test_tuning_reads_no_test_image_and_freezes_the_best(
    tmp_path: Path, two: None, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_idx

    def train_only(folder: Path, file: IdxFile) -> Array:
        assert file in SAMPLE.train
        return read(folder, file)

    monkeypatch.setattr(fashion, "read_idx", train_only)
    frozen = fair.tune(BASE, find("sample"), tmp_path / "recipe.json", 2, 0.5, 1)
    assert (frozen["chosen"], frozen["trained_on"], frozen["held_out"]) == ("as it is", 200, 1000)
    assert [(e["name"], e["seed"], e["epochs"]) for e in frozen["tried"]] == [
        (name, seed, 1) for seed in (fair.TUNING_SEED, fair.TUNING_SEED + 1) for name in SMALL
    ]
    config, content = fair_records.thaw(tmp_path / "recipe.json")
    assert (config, content) == (BASE, frozen)  # of all its epochs, and of split=test
    assert config.split == "test"
    assert (content["tuned"]["epochs_scale"], looks) == (0.5, [])


def test_a_frozen_recipe_is_not_written_again(tmp_path: Path, two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("mine")
    monkeypatch.setattr(fair, "train_all", lambda *_: pytest.fail("trained"))
    with pytest.raises(UsageError, match="exists, and a frozen recipe stays as it is"):
        fair.tune(BASE, find("sample"), path, 1, 1.0, 1)
    with pytest.raises(UsageError, match="exists, and a frozen recipe stays as it is"):
        fair_records.freeze(path, {"recipe": {}})  # as if it had come into being meanwhile
    assert (path.read_text(), list(tmp_path.iterdir())) == ("mine", [path])


def test_a_recipe_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    fair_records.freeze(path, {"recipe": BASE.model_dump(mode="json")})
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    with pytest.raises(UsageError, match="not as it was frozen"):
        fair_records.thaw(path)
    with pytest.raises(UsageError, match="cannot be read"):
        fair_records.thaw(tmp_path / "other.json")


def test_a_candidate_that_diverged_is_not_chosen() -> None:
    entries = [
        {"name": "a", "diverged": "loss"},
        {"name": "a", "val_accuracy": 0.9, "val_loss": 0.1},
        {"name": "b", "val_accuracy": 0.5, "val_loss": 0.3},
        {"name": "c", "val_accuracy": 0.5, "val_loss": 0.2},
    ]
    assert fair.best(entries, dict.fromkeys("abc")) == "c"
    with pytest.raises(UsageError, match="nothing to freeze"):
        fair.best(entries, dict.fromkeys("a"))


def test_the_candidates_are_few_and_valid() -> None:
    compared = fair.variants(experiment(8, **FIRST_8), 0.5)
    assert 1 < len(compared) <= 6
    assert {config.split for config in compared.values()} == {"holdout"}
    assert compared["as first declared"].epochs == 15
    assert len({config.key for config in compared.values()}) == len(compared)


# --- evaluation -----------------------------------------------------------------------------------


def test_a_seed_is_evaluated_once(tmp_path: Path, looks: list[int]) -> None:
    path = tmp_path / "results.jsonl"
    first = evaluate(path, 2)
    assert (looks, [entry["seed"] for entry in first]) == ([0, 1], [0, 1])
    assert evaluate(path, 3)[:2] == first
    assert looks == [0, 1, 2]
    assert evaluate(path, 1) == first[:1]
    assert looks == [0, 1, 2]


def test_an_evaluation_that_was_interrupted_goes_on(
    tmp_path: Path, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, start = tmp_path / "results.jsonl", SerialEngine.submit

    def until_second(self: Any, key: int, config: RunConfig) -> None:
        if config.seed == 1:
            raise KeyboardInterrupt
        start(self, key, config)

    with monkeypatch.context() as patch:
        patch.setattr(SerialEngine, "submit", until_second)
        with pytest.raises(KeyboardInterrupt):
            evaluate(path, 2)
    assert looks == [0]
    assert [entry["seed"] for entry in evaluate(path, 2)] == [0, 1]


def test_the_values_are_those_of_the_weights_after_the_last_epoch(tmp_path: Path) -> None:
    [both] = load(RECIPE, find("sample"))
    expected = finish(train(RECIPE, both))
    [found] = evaluate(tmp_path / "results.jsonl", 1)
    assert found["weights_sha256"] == expected.weights_sha256
    assert found["accuracy"] == pytest.approx(expected.evaluation.accuracy)
    assert (found["images"], found["parameters"], found["epochs"]) == (1000, 26_698, 1)


def test_a_training_sees_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [both] = load(RECIPE, find("sample"))
    given: list[Data] = []
    monkeypatch.setattr(fair, "train_all", lambda configs, data, *_: given.append(data))
    evaluate(tmp_path / "results.jsonl", 1)
    [seen] = given
    assert torch.equal(seen.train.pixels, both.train.pixels)
    assert torch.equal(seen.val.pixels, both.train.pixels[: len(seen.val)])


def test_near_duplicates_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair, "near_duplicates", lambda train, test: test.labels != 0)
    [found] = evaluate(tmp_path / "results.jsonl", 1)
    assert found["near_duplicates"] == 900
    assert found["accuracy_without"] != found["accuracy"]
    assert (100 * found["accuracy_without"]) == pytest.approx(round(100 * found["accuracy_without"]))  # of 100 images


@pytest.mark.parametrize("other", [{"sha256": "b"}, {"config": RECIPE.derive(lr=0.5)}])
def test_results_of_another_recipe_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "results.jsonl"
    evaluate(path, 1)
    with pytest.raises(UsageError, match="results of another"):
        evaluate(path, 1, **other)


def test_a_result_is_on_the_disk_before_the_next_and_never_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    record = fair_records.Record(path, {"stage": "evaluate"})
    record.add({"name": "recipe", "seed": 0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [record.header, *record.entries]
    with pytest.raises(AssertionError, match="there already"):
        record.add({"name": "recipe", "seed": 0})


def test_a_seed_that_diverged_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: list[int]) -> None:
    def diverge(configs: Any, data: Any, workers: int, ended: Any) -> None:
        for key in configs:
            ended(key, Diverged("loss 99"))

    monkeypatch.setattr(fair, "train_all", diverge)
    entries = evaluate(tmp_path / "results.jsonl", 2)
    assert [entry["diverged"] for entry in entries] == ["loss 99"] * 2
    assert fair_pages.evaluation_page(entries)[1]["diverged"] == 2


def test_any_other_failure_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel")
        yield

    monkeypatch.setattr("sweeper.engine.serial.start", broken)
    with pytest.raises(SweeperError, match="seed 0: RuntimeError: no such kernel"):
        evaluate(tmp_path / "results.jsonl", 1)


# --- pages and options ----------------------------------------------------------------------------


def test_the_interval_is_that_of_students_t() -> None:
    found = fair_pages.summary([0.94, 0.95, 0.96])
    assert (found["n"], found["mean"], found["sd"]) == (3, pytest.approx(0.95), pytest.approx(0.01))
    half = 4.302653 * 0.01 / 3**0.5
    assert found["interval"] == pytest.approx([0.95 - half, 0.95 + half])
    assert fair_pages.summary([0.94])["interval"] is None


@pytest.mark.parametrize(
    ("mark", "words"),
    [(0.90, "reached; the interval lies above"), (0.95, "reached; the interval holds it"),
     (0.951, "not reached; the interval holds it"), (0.99, "not reached; the interval lies below")],
)  # fmt: skip
def test_a_mean_is_held_against_the_marks(mark: float, words: str) -> None:
    assert fair_pages.against({"mean": 0.95, "interval": [0.94, 0.96]}, mark) == words


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--tune", "--evaluate"],
        ["--tune", "--recipe", "default"],
        ["--evaluate", "--epochs-scale", "0.5"],
        ["--evaluate", "--recipe", "r.json", "--train-images", "5"],
        ["--evaluate", "--recipe", "r.json", "--device", "cpu"],
        ["--evaluate", "--seeds", "0"],
    ],
)
def test_the_stages_cannot_be_mixed(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("run_tune", "run_evaluate"):
        monkeypatch.setattr(fair, stage, lambda *_: pytest.fail("ran"))
    with pytest.raises(SystemExit) as ended:
        fair.main(argv)
    assert ended.value.code == 2


def test_the_default_is_experiment_8_as_declared() -> None:
    args = type(
        "Options",
        (),
        {"dataset": "sample", "data_dir": None, "device": "cpu", "precision": "fp32", "train_images": None},
    )
    assert fair.declared(args)[0] == experiment(8, dataset="sample")
