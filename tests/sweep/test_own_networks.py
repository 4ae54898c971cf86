"""Sweeps, replays and champions of a user's own networks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.models import Model
from torch import nn

from sweeper.core.config import LAYERED, Placement, RunConfig
from sweeper.core.errors import ConfigError, StudyConflict, SweeperError, UsageError
from sweeper.core.experiments import experiment
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR, FashionSource
from sweeper.engine.choice import EngineChoice
from sweeper.study.space import Choice, Space
from sweeper.sweep.champion_notes import of_code
from sweeper.sweep.choose import choose
from sweeper.sweep.networks import find_network, with_source
from sweeper.sweep.optimize import optimize
from sweeper.sweep.options import SweepOptions, search_space
from sweeper.sweep.replay import replay
from sweeper.sweep.retrain import export
from sweeper.sweep.train import train_one
from sweeper.tracking.reading import read_record
from sweeper.training.networks import build_model
from tests.support.factories import BRANCHING, OWN, PLAIN, RESIDUAL, write
from tests.sweep.conftest import Place

FEW = {"split": "holdout", "epochs": 1, "train_images": 200, "batch_size": 100}
SPACE = Space({"placement": Choice(("bn", "bn-dropout")), "model.width": Choice((4, 8))})


def config(file: str, function: str = "build", **fields: Any) -> RunConfig:
    return experiment(6, **FEW, model=f"{file}:{function}", **fields)


def sweep(
    place: Place, base: RunConfig, space: Space | None = SPACE, trials: int = 4, **options: Any
) -> dict[str, Any]:
    """A sweep as the command makes it."""
    network = find_network(place.environment, base, "sample", {})
    fixed = {"study": "own", "sampler": "grid", "pruner": "none", "final": False, "dataset": "sample",
             "device": "cpu", "precision": "fp32", "engine": EngineChoice("serial")}  # fmt: skip
    asked = SweepOptions(network.config, space or search_space(None, network.placements), trials, **(fixed | options))
    return optimize(place.environment, asked)


def folders(place: Place) -> list[Path]:
    return sorted((place.home / "journal/own").glob("0*"))


# --- sweeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_network_is_swept_over_placements_and_its_arguments(place: Place, tmp_path: Path, engine: str):
    result = sweep(place, config(write(tmp_path, PLAIN)), engine=EngineChoice(engine, 1))
    assert (result["complete"], result["failed"]) == (4, 0)
    seen = set()
    for folder in folders(place):
        params = read_record(folder).params
        trained = RunConfig.from_params(params)
        shapes = json.loads((folder / "artifacts/config.json").read_text())["model_args"]
        assert [params["model.width"]] == [str(value) for _, value in shapes]
        assert (folder / "artifacts/code/net.py").read_text() == Path(trained.model.rpartition(":")[0]).read_text()
        seen.add((trained.placement.value, params["model.width"]))
    assert seen == {("bn", "4"), ("bn", "8"), ("bn-dropout", "4"), ("bn-dropout", "8")}


def test_engines_train_a_network_of_ones_own_to_the_same_bits(place: Place, tmp_path: Path):
    base, hashes = config(write(tmp_path, PLAIN)), []
    for engine in ("serial", "processes"):
        sweep(place, base, study=engine, trials=1, engine=EngineChoice(engine, 1))
        record = read_record(place.home / f"journal/{engine}/0000")
        hashes.append((record.tags["sweeper.history_sha256"], record.tags["sweeper.weights_sha256"]))
    assert hashes[0] == hashes[1]


def test_a_network_without_the_builder_is_searched_without_placement_and_rates(place: Place, tmp_path: Path):
    sweep(place, config(write(tmp_path, OWN)).derive(train_images=600), space=None, sampler="random", trials=2)
    for folder in folders(place):
        params = read_record(folder).params
        assert params["placement"] == "own"
        assert (params["conv_dropout"], params["head_dropout"]) == ("0.0", "0.0")
    settings = (place.home / "journal/own/study/events.jsonl").read_text()
    assert '"space.batch_size"' in settings
    assert "space.placement" not in settings


def test_the_default_space_has_what_the_network_has_room_for(place: Place, tmp_path: Path):
    found = find_network(place.environment, config(write(tmp_path, RESIDUAL), "Net"), "sample", {})
    assert found.placements == LAYERED
    space = search_space(None, found.placements)
    assert space.describe()["placement"] == [p.value for p in LAYERED]
    linear = write(tmp_path, """
        from torch import nn


        def build(images, layers):
            return nn.Sequential(nn.Flatten(), *layers.linear(784, 8), *layers.head(8, 10))
    """, "linear.py")  # fmt: skip
    found = find_network(place.environment, config(linear), "sample", {})
    assert found.placements == (Placement.NONE,)
    assert found.config.placement is Placement.NONE  # that of the experiment, bn-dropout, does not fit


def test_an_option_that_the_network_does_not_use_is_refused(place: Place, tmp_path: Path):
    file = write(tmp_path, OWN)
    with pytest.raises(ConfigError, match=r"conv_dropout=0\.2: placement own has no Dropout in its convolutions"):
        find_network(place.environment, config(file, conv_dropout=0.2), "sample", {"conv_dropout": 0.2})


# --- refusals ----------------------------------------------------------------------------------------

BROKEN = PLAIN.replace("return nn.Sequential", "width == 8 and 1 / 0\n    return nn.Sequential")


@pytest.mark.parametrize(
    ("text", "space", "says"),
    [
        (BROKEN, SPACE, "net.py: ZeroDivisionError: division by zero"),
        (PLAIN, Space({"model.width": Choice((4, 0))}), "net.py:build"),
        (PLAIN, Space({"placement": Choice(("bn", "bn-dropout-last"))}), "the network of net.py:build has none"),
        (PLAIN, Space({"model.wdith": Choice((4,))}), "unexpected keyword argument 'wdith'"),
        (OWN, Space({"placement": Choice(("bn", "ic"))}), "takes no argument `layers`, so its placement is own"),
        (OWN, Space({"batch_size": Choice((1, 2))}), "batch_size=1: BatchNorm needs 2 or more images in a batch"),
        ("build = 3", SPACE, "has no function 'build'"),
    ],
)
def test_a_network_that_the_space_cannot_train_is_refused_before_a_study_is_made(
    place: Place, tmp_path: Path, text: str, space: Space, says: str
):
    base = config(write(tmp_path, text))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SweeperError) as caught:
        sweep(place, base, space)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_one_training_is_refused_before_a_run_is_made(place: Place, tmp_path: Path):
    file = write(tmp_path, OWN.replace("len(images.classes)", "3"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="it must return logits"):
        train_one(place.environment, config(file, placement="own"), dataset="sample", device="cpu", precision="fp32")
    assert sorted(tmp_path.rglob("*")) == before


# --- a file that changes -------------------------------------------------------------------------------


def test_a_study_is_not_continued_with_a_changed_file(place: Place, tmp_path: Path):
    base = config(write(tmp_path, PLAIN))
    sweep(place, base, trials=1)
    write(tmp_path, PLAIN + "# changed\n")
    with pytest.raises(StudyConflict) as caught:
        sweep(place, base, trials=2)
    assert "the network's file has changed" in str(caught.value)
    assert "\n" not in str(caught.value)
    write(tmp_path, PLAIN)
    assert sweep(place, base, trials=2)["finished"] == 2


def test_a_study_is_continued_with_the_file_in_another_folder(place: Place, tmp_path: Path):
    sweep(place, config(write(tmp_path, PLAIN)), trials=1)
    (tmp_path / "other").mkdir()
    assert sweep(place, config(write(tmp_path / "other", PLAIN)), trials=2)["finished"] == 2


def test_a_replay_says_that_the_file_has_changed(place: Place, tmp_path: Path):
    base = config(write(tmp_path, PLAIN))
    run = train_one(place.environment, base, dataset="sample", device="cpu", precision="fp32")
    threads = torch.get_num_threads()
    assert replay(place.environment, str(run.journal))["identical"]
    write(tmp_path, PLAIN + "# changed\n")
    with pytest.raises(UsageError) as caught:
        replay(place.environment, str(run.journal))
    assert "net.py has changed" in str(caught.value)
    assert "code/net.py" in str(caught.value)
    (tmp_path / "net.py").unlink()
    with pytest.raises(UsageError, match=r"net\.py: no such file.* Each run logs the file under code/"):
        replay(place.environment, str(run.journal))
    torch.set_num_threads(threads)


# --- the model in MLflow -------------------------------------------------------------------------------

LOAD = """
import json, sys
sys.modules["sweeper"] = None  # it cannot be imported
import mlflow.pytorch, mlflow.pyfunc, numpy as np, torch
pixels = np.load("pixels.npy")
network = mlflow.pytorch.load_model("model")
with torch.no_grad():
    logits = network(torch.from_numpy(pixels)).numpy()
table = mlflow.pyfunc.load_model("model").predict(pixels)
drops = sum(isinstance(layer, torch.nn.Dropout) for layer in network.modules())
print(json.dumps({"logits": logits.tolist(), "best": table.to_numpy().argmax(1).tolist(), "dropout": drops}))
"""
SERVED = {  # the file, its function, and the placement
    "resnet20": ("", "", "bn-dropout-last"),
    "own class of our layers": (RESIDUAL, "Net", "bn-dropout-add"),
    "as it is": (OWN, "build", "own"),
    "not to be traced": (BRANCHING, "Net", "own"),
}


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow's own
@pytest.mark.parametrize(("text", "function", "placement"), SERVED.values(), ids=SERVED)
def test_a_champion_is_loaded_where_neither_sweeper_nor_its_file_is(
    tmp_path: Path, alone: dict[str, str], text: str, function: str, placement: str
):
    import safetensors.torch

    model = f"{write(tmp_path, text)}:{function}" if text else "resnet20"
    base = with_source(RunConfig.create(model=model, placement=placement, dataset="sample"))
    torch.manual_seed(1)
    trained = build_model(base, SAMPLE.spec).eval()
    example = FashionSource(SAMPLE, SAMPLE_DIR).read("test")[:4]
    described = export(base, SAMPLE.spec, safetensors.torch.save(trained.state_dict()), example,
                       str(tmp_path / "model"), Model())  # fmt: skip
    (tmp_path / "net.py").unlink(missing_ok=True)
    np.save(tmp_path / "pixels.npy", example.pixels[..., 0])
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, env=alone, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    pixels = (torch.from_numpy(example.pixels[..., 0].copy()).float() / 255 - SAMPLE.spec.mean[0]) / SAMPLE.spec.std[0]
    expected = trained(pixels[:, None]).detach()
    assert np.allclose(found["logits"], expected, atol=1e-5)
    assert found["best"] == expected.argmax(1).tolist()
    assert found["dropout"] == sum(isinstance(layer, nn.Dropout) for layer in trained.modules())
    assert described.metadata["needs"] == []


def test_the_description_of_a_model_names_the_file(place: Place, tmp_path: Path):
    base = config(write(tmp_path, PLAIN))
    chosen = choose(place.environment, base, "sample", "cpu", "fp32")
    assert "`net.py:build`, which its run logs as `code/net.py`" in of_code(chosen)
    assert of_code(replace(chosen, code={})) == ""
