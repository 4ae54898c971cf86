"""Ask about a network: by the command and from Python, on images and networks of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import sweeper
from sweeper.core.errors import UsageError
from tests.process.conftest import Answer
from tests.support.own_images import DIGITS

Sweeper = Callable[..., Answer]
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "advise.md"
NETWORK, PYTHON = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SMALL = ("advise", "--model", "net.py:build", "--model-arg", "width=4", "--dataset", "own.py:digits", "--placements",
         "none,bn", "--trainings", "14", "--epochs", "1", "--workers", "2")  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A home with the page's network and scikit-learn's digits."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "own.py").write_text(DIGITS)
    return tmp_path


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_an_advice_on_a_network_and_images_of_ones_own(sweeper: Sweeper, own: Path):
    done = sweeper(own, *SMALL, "--name", "mine", "--register", "own-net", "--json")
    assert done.code == 0, done.err
    assert "registered model 'own-net', version 1, alias champion" in done.err
    found = json.loads(done.out.splitlines()[-1])
    assert {row["placement"] for row in found["ranking"]} == {"none", "bn"}
    assert found["trainings"] == 14 + 2  # with the pilot
    assert 0 < found["test"]["test/accuracy"] <= 1
    assert found["recommendation"]["model"].endswith("net.py:build")
    assert any("BatchNorm" in answer["sentence"] for answer in found["answers"])
    assert Path(found["report"]).read_text().startswith("<!doctype html>")

    client = MlflowClient(f"sqlite:///{own}/mlflow.db")
    version = client.get_model_version_by_alias("own-net", "champion")
    assert f"{found['test']['test/accuracy']:.4f}" in version.description
    assert version.tags["sweeper.placement"] == found["recommendation"]["placement"]
    assert client.get_run(version.run_id).data.tags["sweeper.test"] == "once"
    assert "advice **mine**" in client.get_registered_model("own-net").description

    again = sweeper(own, *SMALL, "--name", "mine", "--register", "own-net", "--json")
    assert json.loads(again.out.splitlines()[-1]) == found
    assert "registered" not in again.err

    more = sweeper(own, *SMALL, "--name", "mine", "--trainings", "18", "--json")
    assert more.code == 0, more.err
    assert json.loads(more.out.splitlines()[-1])["trainings"] == 18 + 2, more.err


def test_its_runs_say_what_they_are_for(sweeper: Sweeper, own: Path):
    assert sweeper(own, *SMALL, "--name", "mine", "--tracking-uri", "offline", "--no-test").code == 0
    folder = own / "journal" / "advise-mine"
    starts = [json.loads(path.read_text().splitlines()[0]) for path in folder.glob("*/*/events.jsonl")]
    tags = [start["tags"] for start in starts]
    assert {tag["sweeper.kind"] for tag in tags} == {"advise"}
    assert {tag["sweeper.stage"] for tag in tags} == {"pilot", "screening", "comparison"}
    assert {tag["sweeper.arm"] for tag in tags} == {"none", "bn"}
    assert (folder / "advice/artifacts/report.html").is_file()
    assert not (folder / "recommendation").exists()


def test_the_plan_is_shown_without_training(sweeper: Sweeper, own: Path):
    done = sweeper(own, *SMALL, "--dry-run")
    assert done.code == 0, done.err
    assert "pilot: 2 runs" in done.out
    assert not (own / "journal").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--placements", "bn"), "name two or more"),
        (("--placements", "bn,neither"), "'neither' is not a placement"),
        (("--placements", "bn,bn-dropout-add"), "Use none, bn"),
        (("--trainings", "11"), "--trainings 11: comparing 2 placements takes at least 12"),
        (("--budget", "0s"), "--budget"),
        (("--tracking-uri", "none"), "sweeper advise needs recorded runs"),
        (("--name", "a/b"), "name"),
        (("--register", "a/b"), "--register 'a/b': use letters"),
        (("--register", "net", "--no-test"), "Leave --no-test out"),
        (("--register", "net", "--tracking-uri", "offline"), "--register needs an MLflow store"),
    ],
)
def test_what_cannot_be_advised_on_is_refused_in_one_line(
    sweeper: Sweeper, own: Path, options: tuple[str, ...], words: str
):
    done = sweeper(own, *SMALL, *options)
    assert done.code == 2, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (own / "journal").exists()


def test_a_network_that_places_its_layers_itself_is_refused(sweeper: Sweeper, own: Path):
    (own / "net.py").write_text("from torch import nn\n\n\ndef build(images):\n    return nn.Linear(1, 1)\n")
    done = sweeper(own, *SMALL[:3], *SMALL[5:7])
    assert done.code == 2, done.err
    assert "places its own layers" in done.err


def test_the_pages_python_gives_a_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "offline")
    exec(compile(PYTHON, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert "the recommendation" in printed
    assert "BatchNorm" in printed


def test_a_budget_in_words_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a time"):
        sweeper.advise(sweeper.experiment(1), budget="soon", home=tmp_path)
