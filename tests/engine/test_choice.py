"""Which engine is built, and when stacking trainings is said to pay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError
from sweeper.data.shared import SharedSplits
from sweeper.engine import calibration as engines
from sweeper.engine import choice as engine_choice
from sweeper.engine.calibration import speedup
from sweeper.engine.choice import Built, EngineChoice, build, check, likely_here, prepare
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.fused import FusedEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.study.space import Draw, default_space
from sweeper.training import stacked
from sweeper.training.images import Data

CONFIG = RunConfig.create(model="small", epochs=2, batch_size=64, dataset="sample")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Two cores, and a cache of its own."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(engines, "cores", lambda: 2)
    monkeypatch.setattr(engine_choice, "cores", lambda: 2)
    monkeypatch.setattr(engines, "user_cache_path", lambda name: tmp_path / name)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tiny: Data) -> Iterator[Any]:
    """`make(choice, configs, most, few)` builds an engine, which is closed after the test; what is said is on it."""
    built: list[Built] = []

    def call(choice: EngineChoice, configs: Any = (CONFIG,), most: int = 10, few: int = 10) -> Built:
        built.append(build(choice, SharedSplits([tiny.arrays()]), configs, most, call.said.append, few=few))  # type: ignore[attr-defined]
        return built[-1]

    call.said = []  # type: ignore[attr-defined]
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
        (EngineChoice("fused", None), FusedEngine, 4, 2),  # no more than `few`
        (EngineChoice("fused", 3), FusedEngine, 3, 2),
    ],
)
def test_a_choice_gives_its_engine(make: Any, choice: EngineChoice, kind: type, slots: int, threads: int):
    built = make(choice, few=4)
    assert type(built.engine) is kind
    assert (built.engine.slots, built.threads) == (slots, threads)
    assert built.name == {ProcessEngine: "processes", SerialEngine: "serial", FusedEngine: "fused"}[kind]


def test_no_more_workers_than_trainings(make: Any):
    built = make(EngineChoice(workers=2), most=1)
    assert (built.engine.slots, built.threads) == (1, 1)  # the threads of two: times stay comparable


@pytest.mark.parametrize(("ratio", "name"), [(1.0, "processes"), (1.19, "processes"), (1.2, "fused"), (3.0, "fused")])
def test_auto_stacks_where_it_pays(make: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, name: str):
    monkeypatch.setattr(engines, "speedup", lambda config, data, members, workers: ratio)
    built = make(EngineChoice("auto", None), [CONFIG.derive(seed=seed) for seed in range(10)])
    assert built.name == name
    pace = f"8 stacked trainings ran at {ratio:.2f} times the pace of 2 worker processes"
    assert make.said == [f"engine: {name} ({pace})"]
    assert built.engine.slots == (8 if name == "fused" else 2)


@pytest.mark.parametrize(
    ("ratio", "name", "overall"), [(2.0, "fused", "1.67"), (1.2, "processes", "1.15"), (0.5, "processes", "0.56")]
)
def test_auto_weighs_what_cannot_be_stacked(
    make: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, name: str, overall: str
):
    """Of ten trainings five, three, one and one are alike: stacks of four, for 80 % of them."""
    measured = []
    monkeypatch.setattr(engines, "speedup", lambda *case: (measured.append(case), ratio)[1])
    sizes = [16] * 3 + [32] * 5 + [64, 128]
    built = make(EngineChoice("auto", 10), [CONFIG.derive(batch_size=size) for size in sizes])
    assert built.name == name
    ((config, _, members, workers),) = measured
    assert (config.batch_size, members, workers) == (32, 4, 10)
    pace = f"4 stacked trainings ran at {ratio:.2f} times the pace of 10 worker processes"
    assert make.said == [f"engine: {name} ({pace}; 80% can be stacked: {overall} times)"]


def test_auto_stacks_a_search_of_the_default_space(make: Any, monkeypatch: pytest.MonkeyPatch):
    """Fifty trials, ten at a time, over seven placements and five batch sizes."""
    monkeypatch.setattr(engines, "speedup", lambda *_: 3.0)
    draw = Draw(0)
    configs = [default_space().suggest(CONFIG, draw) for _ in range(64)]
    assert make(EngineChoice("auto", None), configs, most=50, few=10).name == "fused"


@pytest.mark.parametrize("name", [None, "auto", "fused"])
def test_on_a_gpu_trainings_of_any_shape_advance_side_by_side(
    make: Any, monkeypatch: pytest.MonkeyPatch, name: str | None
):
    made = ConcurrentEngine
    monkeypatch.setattr(engines, "ConcurrentEngine", lambda data, _, *sizes: made(data, "cpu", *sizes))
    monkeypatch.setattr(engines, "speedup", lambda *_: pytest.fail("nothing to measure"))
    on_gpu = [CONFIG.model_copy(update={"device": "cuda", "batch_size": 16 * (1 + n)}) for n in range(8)]
    built = make(EngineChoice(name, workers=None), on_gpu, most=50, few=10)
    assert (built.name, built.engine.slots, built.threads) == ("concurrent", 10, 2)


def test_cross_validation_on_a_gpu_takes_a_worker_a_core(make: Any):
    folds = CONFIG.derive(split="folds", folds=3).model_copy(update={"device": "cuda"})
    built = make(EngineChoice(workers=None), [folds] * 4)
    assert (built.name, built.engine.slots, built.threads) == ("processes", 2, 1)


def test_auto_does_not_stack_trainings_of_many_shapes(make: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "speedup", lambda *_: pytest.fail("nothing to measure"))
    built = make(EngineChoice("auto", None), [CONFIG.derive(batch_size=16 * (1 + n)) for n in range(8)])
    assert built.name == "processes"
    assert "too many shapes" in make.said[0]


def test_a_calibration_is_made_once_for_a_machine(tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ratio = speedup(CONFIG, tiny, 3, 2)
    assert ratio > 0
    kept = json.loads((tmp_path / "sweeper/calibration.json").read_text())
    assert list(kept.values()) == [ratio]
    monkeypatch.setattr(engines, "_measure", lambda *_: pytest.fail("it is known"))
    assert speedup(CONFIG.derive(seed=5, lr=0.1, conv_dropout=0.3), tiny, 3, 2) == ratio  # of the same shape


def test_a_stack_without_memory_is_calibrated_at_half_its_size(tiny: Data, monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []
    trained = stacked.train_members

    def train_members(configs: Any, data: Data) -> Any:
        tried.append(len(configs))
        if len(configs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trained(configs, data)

    monkeypatch.setattr(engines, "train_members", train_members)
    assert speedup(CONFIG.derive(batch_size=60), tiny, 8, 1) > 0
    assert tried == [8, 4, 2]


def test_a_learning_rate_that_diverges_is_calibrated_with_a_calm_one(tiny: Data):
    assert speedup(CONFIG.derive(lr=1e6, batch_size=50), tiny, 2, 1) > 0


@pytest.mark.parametrize(
    "changed",
    [{"config": CONFIG.derive(batch_size=32)}, {"members": 4}, {"workers": 1}],
    ids=lambda case: next(iter(case)),
)
def test_another_case_is_measured_anew(tiny: Data, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]):
    answers = iter([2.0, 3.0])
    monkeypatch.setattr(engines, "_measure", lambda *_: next(answers))
    case: dict[str, Any] = {"config": CONFIG, "data": tiny, "members": 3, "workers": 2}
    assert speedup(**case) == 2.0
    assert speedup(**(case | changed)) == 3.0
    assert speedup(**case) == 2.0


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"a": "x"}', b"\xff", b'{"a": null}'])
def test_a_damaged_cache_is_measured_over(tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    monkeypatch.setattr(engines, "_measure", lambda *_: 2.0)
    (tmp_path / "sweeper").mkdir()
    (tmp_path / "sweeper/calibration.json").write_bytes(content)
    assert speedup(CONFIG, tiny, 3, 2) == 2.0
    assert list(json.loads((tmp_path / "sweeper/calibration.json").read_text()).values()) == [2.0]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tiny: Data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "user_cache_path", lambda name: Path("/dev/null") / name)
    monkeypatch.setattr(engines, "_measure", lambda *_: 2.0)
    assert speedup(CONFIG, tiny, 3, 2) == 2.0


def test_a_ray_cluster_is_looked_at_once(make: Any, monkeypatch: pytest.MonkeyPatch):
    """By `prepare`: to join it takes seconds, as it is done in another process first."""
    ray = pytest.importorskip("sweeper.engine.ray")
    looked: list[str] = []
    made: list[dict[str, Any]] = []

    def engine(*_: Any, **options: Any) -> SerialEngine:
        made.append(options)
        return SerialEngine((), 1)

    monkeypatch.setattr(ray, "check_cluster", looked.append)
    monkeypatch.setattr(ray, "RayEngine", engine)
    choice = EngineChoice("ray", None, address="10.0.0.1:6379")
    prepare(choice)
    make(choice)
    assert looked == ["10.0.0.1:6379"]
    assert [options["checked"] for options in made] == [True]
    prepare(EngineChoice("ray", None))  # one is started here
    assert looked == ["10.0.0.1:6379"]


@pytest.mark.parametrize(
    ("choice", "config", "says"),
    [
        (EngineChoice("serial", 2), CONFIG, "one at a time"),
        (EngineChoice("processes", address="auto"), CONFIG, "--engine ray"),
        (EngineChoice(gpus=0.5), CONFIG, "--engine ray"),
        (EngineChoice("fused"), CONFIG.derive(split="folds", folds=3), "cannot be stacked"),
        (EngineChoice("ray"), CONFIG.model_copy(update={"device": "cuda"}), "part of a GPU"),
        (EngineChoice("ray", gpus=0.25), CONFIG, "gpus_per_trial=0.25: training on cpu .* where there is a GPU"),
        (EngineChoice("ray", gpus=1), CONFIG.model_copy(update={"device": "cuda:1"}), "'cuda:1': .* --device cuda"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: EngineChoice, config: RunConfig, says: str):
    with pytest.raises(ConfigError, match=says):
        check(choice, config)


@pytest.mark.parametrize(
    ("name", "device", "gpu", "here"),
    [
        (None, "auto", False, False),
        (None, "cpu", True, False),
        (None, "auto", True, True),
        (None, "cuda:1", False, True),
        ("processes", "auto", True, False),
        ("processes", "cuda", True, False),
        ("auto", "cpu", False, True),
        ("fused", "cpu", False, True),
        ("serial", "auto", False, True),
    ],
)
def test_where_torch_is_loaded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, device: str, gpu: bool, here: bool
):
    if gpu:
        (tmp_path / "second").touch()
    monkeypatch.setattr(engine_choice, "GPU_FILES", (str(tmp_path / "first"), str(tmp_path / "second")))
    assert likely_here(name, device) == here
