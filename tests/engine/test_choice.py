"""Which engine is chosen and built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError
from sweeper.data.shared import SharedSplits
from sweeper.engine import choice as engine_choice
from sweeper.engine import concurrent
from sweeper.engine.choice import Built, EngineChoice, build, check, likely_here, prepare
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.training.images import Data

CONFIG = RunConfig.create(model="small", epochs=2, batch_size=64, dataset="sample")
ON_GPU = CONFIG.model_copy(update={"device": "cuda"})


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with two cores."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(engine_choice, "cores", lambda: 2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tiny: Data) -> Iterator[Any]:
    """`make(choice, config, most, few)` builds an engine, which is closed after the test."""
    built: list[Built] = []

    def call(choice: EngineChoice, config: RunConfig = CONFIG, most: int = 10, few: int = 10) -> Built:
        built.append(build(choice, config, SharedSplits([tiny.arrays()]), most, few=few, warn=print))
        return built[-1]

    yield call
    for made in built:
        made.engine.close()


@pytest.mark.parametrize(
    ("choice", "kind", "slots", "threads"),
    [
        (EngineChoice(), ProcessEngine, 1, 2),
        (EngineChoice(workers=None), ProcessEngine, 1, 2),
        (EngineChoice(workers=2), ProcessEngine, 2, 1),
        (EngineChoice("processes", 2), ProcessEngine, 2, 1),
        (EngineChoice("serial", None), SerialEngine, 1, 2),
    ],
)
def test_a_choice_gives_its_engine(make: Any, choice: EngineChoice, kind: type, slots: int, threads: int):
    built = make(choice, few=4)
    assert type(built.engine) is kind
    assert (built.engine.slots, built.threads) == (slots, threads)
    assert built.name == {ProcessEngine: "processes", SerialEngine: "serial"}[kind]


def test_no_more_workers_than_trainings(make: Any):
    built = make(EngineChoice(workers=2), most=1)
    assert (built.engine.slots, built.threads) == (1, 1)  # the threads of two: times stay comparable


@pytest.mark.parametrize("name", ["auto", "gpu"])
def test_on_a_gpu_trainings_of_any_shape_advance_side_by_side(make: Any, monkeypatch: pytest.MonkeyPatch, name: str):
    made = ConcurrentEngine
    monkeypatch.setattr(concurrent, "ConcurrentEngine", lambda data, _, *sizes: made(data, "cpu", *sizes))
    built = make(EngineChoice(name, workers=None), ON_GPU, most=50, few=10)
    assert (built.name, built.engine.slots, built.threads) == ("gpu", 10, 2)


def test_cross_validation_on_a_gpu_takes_a_worker_a_core(make: Any):
    built = make(EngineChoice(workers=None), ON_GPU.model_copy(update={"split": "folds", "folds": 3}))
    assert (built.name, built.engine.slots, built.threads) == ("processes", 2, 1)


def test_a_ray_cluster_is_looked_at_once(make: Any, monkeypatch: pytest.MonkeyPatch):
    """By `prepare`: to join it takes seconds, as it is done in another process first."""
    ray = pytest.importorskip("sweeper.engine.ray")
    looked: list[str] = []
    monkeypatch.setattr("sweeper.engine.ray_cluster.check_cluster", looked.append)
    monkeypatch.setattr(ray, "RayEngine", lambda *_, **__: SerialEngine((), 1))
    choice = EngineChoice("ray", None, address="10.0.0.1:6379")
    prepare(choice)
    make(choice)
    assert looked == ["10.0.0.1:6379"]
    prepare(EngineChoice("ray", None))  # one is started here
    assert looked == ["10.0.0.1:6379"]


@pytest.mark.parametrize(
    ("choice", "config", "says"),
    [
        (EngineChoice("serial", 2), CONFIG, "one run at a time"),
        (EngineChoice("processes", address="auto"), CONFIG, "--engine ray"),
        (EngineChoice(gpus=0.5), CONFIG, "--engine ray"),
        (EngineChoice("gpu"), CONFIG, "needs a GPU. Use --engine processes --workers N"),
        (EngineChoice("gpu"), ON_GPU.model_copy(update={"split": "folds", "folds": 3}), "--engine processes"),
        (EngineChoice("ray"), ON_GPU, "a fraction of a GPU"),
        (EngineChoice("ray", gpus=0.25), CONFIG, "gpus_per_trial=0.25: the device is cpu.* machine with a GPU"),
        (EngineChoice("ray", gpus=1), CONFIG.model_copy(update={"device": "cuda:1"}), "'cuda:1': .* Use --device cuda"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: EngineChoice, config: RunConfig, says: str):
    with pytest.raises(ConfigError, match=says):
        check(choice, config)


@pytest.mark.parametrize(
    ("name", "device", "gpu", "here"),
    [
        ("auto", "auto", False, False),
        ("auto", "cpu", True, False),
        ("auto", "auto", True, True),
        ("auto", "cuda:1", False, True),
        ("processes", "auto", True, False),
        ("processes", "cuda", True, False),
        ("serial", "auto", False, True),
    ],
)
def test_where_torch_is_loaded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, device: str, gpu: bool, here: bool
):
    if gpu:
        (tmp_path / "second").touch()
    monkeypatch.setattr(engine_choice, "GPU_FILES", (str(tmp_path / "first"), str(tmp_path / "second")))
    assert likely_here(name, device) == here
