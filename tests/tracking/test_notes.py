"""Descriptions and tags in MLflow, of a real store: each is set once, and what a person writes stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from sweeper import __version__
from sweeper.core.environment import EXPERIMENT
from sweeper.tracking.notes import EXPERIMENT_TEXT, NOTE_TAG, Note, describe_model, describe_version
from tests.support.tracked import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

PROJECT = {"sweeper.project": "bn-dropout-sweeper", "sweeper.version": __version__}


def connected(home: Home) -> dict[str, str]:
    """The tags of the MLflow experiment, after one more command."""
    home.connection().connect()
    return dict(home.client().get_experiment_by_name(EXPERIMENT).tags)


def ours(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name.startswith("sweeper.") or name == NOTE_TAG}


def test_a_new_experiment_is_described(home: Home) -> None:
    assert ours(connected(home)) == {NOTE_TAG: EXPERIMENT_TEXT, **PROJECT}


def test_an_experiment_that_others_made_is_described_once(home: Home) -> None:
    client = home.client()
    number = client.create_experiment(EXPERIMENT)
    assert ours(connected(home)) == {NOTE_TAG: EXPERIMENT_TEXT, **PROJECT}
    client.set_experiment_tag(number, NOTE_TAG, "")
    client.delete_experiment_tag(number, "sweeper.project")
    assert ours(connected(home)) == {NOTE_TAG: "", "sweeper.version": __version__}


def test_the_description_of_an_experiment_that_a_person_wrote_stays(home: Home) -> None:
    home.client().create_experiment(EXPERIMENT, tags={NOTE_TAG: "Anna's", "team": "vision"})
    assert connected(home).items() >= {NOTE_TAG: "Anna's", "team": "vision", **PROJECT}.items()


def test_a_store_that_takes_no_description_takes_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("you may not")

    home.client().create_experiment(EXPERIMENT)
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert ours(connected(home)) == {}
    assert home.warned == []


@pytest.fixture
def client(home: Home) -> MlflowClient:
    """A store with a registered model and a version of it."""
    made: MlflowClient = home.client()
    made.create_registered_model("m")
    made.create_model_version("m", (home.folder / "model").as_uri())
    return made


REGISTERED = pytest.mark.parametrize(
    ("describe", "read", "write", "delete"),
    [
        (lambda c, note: describe_model(c, "m", note), lambda c: c.get_registered_model("m"),
         lambda c, text: c.update_registered_model("m", text), lambda c, tag: c.delete_registered_model_tag("m", tag)),
        (lambda c, note: describe_version(c, "m", "1", note), lambda c: c.get_model_version("m", "1"),
         lambda c, text: c.update_model_version("m", "1", text),
         lambda c, tag: c.delete_model_version_tag("m", "1", tag)),
    ],
    ids=["model", "version"],
)  # fmt: skip
Call = Callable[..., Any]


@REGISTERED
def test_a_model_is_described_once(client: MlflowClient, describe: Call, read: Call, write: Call, delete: Call) -> None:
    describe(client, Note("A network.", {"sweeper.placement": "bn"}))
    found = read(client)
    assert found.description == "A network."
    assert found.tags.items() >= {"sweeper.placement": "bn", "sweeper.version": __version__}.items()
    write(client, "")
    delete(client, "sweeper.placement")
    describe(client, Note("Another.", {"sweeper.placement": "ic"}))
    assert (read(client).description or "", "sweeper.placement" in read(client).tags) == ("", False)


@REGISTERED
def test_the_description_of_a_model_that_a_person_wrote_stays(
    client: MlflowClient, describe: Call, read: Call, write: Call, delete: Call
) -> None:
    write(client, "Anna's")
    describe(client, Note("A network.", {"sweeper.placement": "bn"}))
    assert (read(client).description, read(client).tags["sweeper.placement"]) == ("Anna's", "bn")
