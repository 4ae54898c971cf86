"""Descriptions and tags of MLflow experiments, registered models and their versions.

Each is described once. What a person writes, changes or removes in MLflow stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from sweeper import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

NOTE_TAG: Final = "mlflow.note.content"  # the description of a run or of an MLflow experiment, in Markdown
MARK: Final = {"sweeper.version": __version__}  # the last tag to be set: what has it is not described again
PROJECT: Final = {"sweeper.project": "bn-dropout-sweeper"}
EXPERIMENT_TEXT: Final = (
    "The runs of **sweeper**, which finds out how Batch Normalization and Dropout should be combined in a network. "
    "Each run is one training. The parameters `dataset`, `model` and `placement` name its data set, network and the "
    "placement of the two layers; its accuracies are `final/val_accuracy` and, for a champion, `test/accuracy`.\n\n"
    "To see one sweep, filter by `` tags.`sweeper.study` = 'NAME' ``. The tag `sweeper.kind` distinguishes trials, "
    "finalists, the champion and the sweep's summary run. A champion is also a registered model, `sweeper-NAME`."
)


class Note(NamedTuple):
    """A description in Markdown, and tags."""

    text: str
    tags: Mapping[str, str]


def experiment_tags() -> dict[str, str]:
    """Return the tags of an MLflow experiment, its description among them."""
    return {NOTE_TAG: EXPERIMENT_TEXT, **PROJECT, **MARK}


def describe_experiment(client: MlflowClient, found: Experiment) -> None:
    """Describe an MLflow experiment that has no description. A store that refuses it may take runs all the same."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):
        for name, value in _new(experiment_tags(), found.tags).items():
            client.set_experiment_tag(found.experiment_id, name, value)


def describe_model(client: MlflowClient, model: str, note: Note) -> None:
    """Describe a registered model."""
    found = client.get_registered_model(model)
    tags = _new({**note.tags, **PROJECT, **MARK}, found.tags)
    if tags and not found.description:
        client.update_registered_model(model, note.text)
    for name, value in tags.items():
        client.set_registered_model_tag(model, name, value)


def describe_version(client: MlflowClient, model: str, version: str, note: Note) -> None:
    """Describe a version of a registered model."""
    found = client.get_model_version(model, version)
    tags = _new({**note.tags, **MARK}, found.tags)
    if tags and not found.description:
        client.update_model_version(model, version, note.text)
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)


def _new(tags: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Return the tags to set: those that are not present, or none if all were set before."""
    return {} if MARK.keys() <= present.keys() else {k: v for k, v in tags.items() if k not in present}
