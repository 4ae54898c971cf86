"""The front door: which loop trains a configuration, and what becomes of its X-ray."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.core.config import PLAIN, Placement, RunConfig
from sweeper.core.trial import Trial
from sweeper.data.fashion import SAMPLE
from sweeper.data.splits import Split, fold
from sweeper.engine.serial import SerialEngine
from sweeper.sweep.driver import Driver
from sweeper.sweep.progress import PlainView, Progress
from sweeper.sweep.source import Listed
from sweeper.tracking.base import RunInfo
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import ARTIFACTS, read_events
from sweeper.training.folds import finish
from sweeper.training.gpu.captured import train_captured
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.start import examined, has_captured_step, in_turn, is_captured, start, training

BASE = RunConfig(model="small", dataset="sample", epochs=1, batch_size=50)


def test_folds_are_trained_in_step_and_one_split_by_the_plain_loop(tiny: Data):
    images = tiny.arrays().train
    folds = [Data.from_arrays(Split(*fold(images, k, 3), tiny.spec)) for k in range(3)]
    assert len(finish(training(BASE.derive(split="folds", folds=3), folds)).fold_accuracies) == 3
    assert finish(training(BASE, [tiny])).history_sha256 == finish(train(BASE, tiny)).history_sha256


# --- the X-ray -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", [Placement.DROPOUT_BN, Placement.IC, Placement.NONE])
def test_the_xray_leaves_the_result_of_training_as_it_was(placement: Placement, tiny: Data):
    config = BASE.derive(placement=placement, augmentation="crop-flip-erase", epochs=2)
    alone, ours = finish(train(config, tiny)), finish(start(config, [tiny]))
    assert ours.xray is not None
    assert ours.xray_failure == ""
    assert ours.history_sha256 == alone.history_sha256
    assert ours.weights_sha256 == alone.weights_sha256
    assert ours.stability == alone.stability


def test_cross_validation_has_no_xray(tiny: Data):
    result = finish(start(BASE.derive(split="folds", folds=2), [tiny, tiny]))
    assert (result.xray, result.xray_failure, result.stability) == (None, "", None)


def test_a_closed_training_is_not_examined(tiny: Data):
    running = start(BASE.derive(epochs=50), [tiny])
    next(running)
    running.close()
    assert list(running) == []


def test_a_failed_examination_loses_the_xray_and_nothing_else(tiny: Data):
    result = finish(train(BASE, tiny))
    ours = examined(BASE.derive(model="medium"), result, tiny)  # the weights are those of another network
    assert ours.xray is None
    assert ours.xray_failure.startswith("RuntimeError: Error(s) in loading state_dict")
    assert len(ours.xray_failure.splitlines()) == 1
    assert ours.weights_sha256 == result.weights_sha256


@pytest.mark.parametrize(
    ("placement", "fails", "files"), [("bn-dropout", False, 2), ("dropout", False, 0), ("bn", True, 0)]
)
def test_the_journal_holds_the_xray_or_the_reason_why_there_is_none(
    placement: str, fails: bool, files: int, tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def describe(trial: Any) -> RunInfo:
        return RunInfo(key="k", name="run", params={}, tags={}, description="", folder="run")

    if fails:
        monkeypatch.setattr("sweeper.training.start.examine", lambda *_: 1 / 0)
    with closing(SerialEngine([tiny], 1)) as engine:
        view = PlainView(Progress(target=1), io.StringIO())
        config = BASE.derive(placement=placement)
        Driver(Listed([Trial(0, config)]), engine, JournalTracker(tmp_path), describe, view).run(1)
    end, artifacts = read_events(tmp_path / "run")[-1], tmp_path / "run" / ARTIFACTS
    assert end["tags"]["sweeper.state"] == "complete"
    assert end["tags"].get("sweeper.xray_failure") == ("ZeroDivisionError: division by zero" if fails else None)
    assert ("xray/brier" in end["metrics"]) is not fails
    assert ("xray/variance_shift" in end["metrics"]) is (files > 0)
    assert len(list(artifacts.glob("diagnostics/*"))) == files
    assert (artifacts / "model" / "state.safetensors").exists()


# --- the captured step -----------------------------------------------------------------------------------


def test_a_cpu_is_trained_by_the_plain_loop_and_a_gpu_by_the_captured_step():
    assert not is_captured(BASE, SAMPLE.spec)
    assert is_captured(BASE.derive(device="cuda:1"), SAMPLE.spec)


@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("placement", PLAIN)
def test_the_captured_step_supports_the_networks_of_this_package(placement: Placement, model: Any):
    assert has_captured_step(RunConfig(model=model, placement=placement), SAMPLE.spec)


def test_a_network_without_a_captured_step_is_trained_by_the_plain_loop(tiny: Data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sweeper.training.start.supports", lambda model: False)
    assert not is_captured(BASE.derive(device="cuda"), SAMPLE.spec)
    plain, beside = finish(train(BASE, tiny)), finish(in_turn(BASE, [tiny], lambda: 1))  # type: ignore[arg-type]
    assert beside.weights_sha256 == plain.weights_sha256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_by_the_captured_step_in_the_same_bits(tiny: Data):
    config = BASE.derive(device="cuda", placement="bn-dropout")
    alone, ours = finish(train_captured(config, tiny)), finish(start(config, [tiny]))
    assert ours.history_sha256 == alone.history_sha256
    assert ours.weights_sha256 == alone.weights_sha256
    assert ours.xray is not None
