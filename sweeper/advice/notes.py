"""The descriptions and tags of a registered recommendation and its version in MLflow."""

from __future__ import annotations

from sweeper.advice.result import Advice
from sweeper.advice.work import FOLDER, Question
from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.core.intervals import accuracy_words
from sweeper.core.metric import ACCURACY
from sweeper.core.text import counted
from sweeper.sweep.champion_notes import config_tags, config_words, data_tags, data_words, how_to_load, of_code
from sweeper.tracking.notes import Note


def model_note(name: str, advice: Advice, images: ImageSpec) -> Note:
    """Return the note of the registered model `name`, whose versions are recommendations."""
    words = (
        f"The recommendation of the advice **{advice.name}**, of **sweeper**: how Batch Normalization and Dropout "
        f"should be combined in the network {advice.network}. {data_words(images)} The newest version has the alias "
        "`champion`." + how_to_load(f"{name}@champion")
    )
    return Note(words, {"sweeper.study": FOLDER + advice.name, **data_tags(images)})


def version_note(name: str, question: Question, advice: Advice, config: RunConfig, version: str) -> Note:
    """Return the note of a version of the model `name`: the recommendation, with its test metrics."""
    best, images = advice.best, question.chosen.source.spec
    words = (
        f"The recommendation of the advice **{advice.name}**, retrained on all training images, validation included. "
        f"Test accuracy, evaluated once: {accuracy_words(advice.test, ACCURACY)}. On the validation images before, "
        f"over {counted(best.seeds, 'seed')}: {best.accuracy:.4f}.\n\n{config_words(config)}{data_words(images)}"
        + of_code(question.chosen) + how_to_load(f"{name}/{version}")
    )  # fmt: skip
    accuracies = {key: f"{value:.4f}" for key, value in advice.test.items()}
    return Note(words, {"sweeper.study": FOLDER + advice.name, **data_tags(images), **config_tags(config)} | accuracies)
