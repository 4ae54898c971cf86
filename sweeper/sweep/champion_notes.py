"""The descriptions and tags of a registered champion and its version in MLflow."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.core.intervals import accuracy_words
from sweeper.core.metric import METRICS
from sweeper.core.text import counted
from sweeper.study.study import Study
from sweeper.sweep.choose import Chosen
from sweeper.sweep.finalists import Best
from sweeper.tracking.notes import Note


def model_note(name: str, study: Study, images: ImageSpec) -> Note:
    """Return the note of the registered model `name`, whose versions are the champions of a study."""
    words = (
        f"The champions of study **{study.name}**: the best configuration by {study.metric.words}, retrained on all "
        "training images and evaluated once on the test images. The study is a search of **sweeper**, which finds out "
        f"how Batch Normalization and Dropout should be combined in a network. {data_words(images)} Each version names "
        "its network, placement and accuracies; the newest has the alias `champion`." + how_to_load(f"{name}@champion")
    )
    return Note(words, {"sweeper.study": study.name, "sweeper.metric": study.metric.name, **data_tags(images)})


def version_note(
    name: str, study: Study, chosen: Chosen, best: Best, config: RunConfig, tested: Mapping[str, float], version: str
) -> Note:
    """Return the note of a version of the model `name`: the configuration `best`, with its test metrics."""
    images = chosen.source.spec
    scores = [f"{each.noun} {best.scores[each.key]:.4f}" for each in METRICS.values() if each.key in best.scores]
    words = (
        f"The best configuration of study **{study.name}** (trial {best.trial}) by {study.metric.words}, retrained on "
        "all training images, validation included. Test accuracy, evaluated once: "
        f"{accuracy_words(tested, study.metric)}. On the validation images before, over "
        f"{counted(best.seeds, 'seed')}: {', '.join(scores)}.\n\n"
        f"{config_words(config)}{data_words(images)}" + of_code(chosen) + how_to_load(f"{name}/{version}")
    )
    tags = {"sweeper.study": study.name, "sweeper.trial": str(best.trial), **data_tags(images), **config_tags(config)}
    accuracies = {key: f"{value:.4f}" for key, value in tested.items()}
    return Note(words, tags | accuracies)


def config_tags(config: RunConfig) -> dict[str, str]:
    """Return the tags that name a network and its layers."""
    return {
        "sweeper.model": config.model_name, "sweeper.placement": config.placement.value,
        "sweeper.conv_dropout": f"{config.conv_dropout:.3g}", "sweeper.head_dropout": f"{config.head_dropout:.3g}",
    }  # fmt: skip


def config_words(config: RunConfig) -> str:
    """Describe a network and its layers in a sentence."""
    return (
        f"**{config.model_name}** network, placement **{config.placement.value}**, Dropout rate "
        f"{config.conv_dropout:.3g} in the convolutional part, {config.head_dropout:.3g} in the head. "
    )


def data_words(images: ImageSpec) -> str:
    """Describe a data set in a sentence."""
    height, width, channels = images.shape
    shape = f"(N, {height}, {width}{'' if channels == 1 else ', 3'})"
    return f"Data set **{images.name}**: {len(images.classes)} classes, uint8 images `{shape}`."


def data_tags(images: ImageSpec) -> dict[str, str]:
    """Return the tags that name a data set."""
    return {"sweeper.dataset": images.name, "sweeper.dataset_sha256": images.sha256}


def of_code(chosen: Chosen) -> str:
    """Return a sentence on the network's file; empty for our own networks."""
    if not chosen.code:
        return ""
    return (
        f" The network was built by `{chosen.config.model_name}`, which its run logs as `{next(iter(chosen.code))}`. "
        "Modules that must be installed to load it are under `needs` in its metadata."
    )


def how_to_load(model: str) -> str:
    """Describe how to load a model or a version of it, such as `name/1`."""
    return (
        "\n\nTo load it, without sweeper, as a function from images to a table of class probabilities:\n\n"
        f'```python\nmlflow.pyfunc.load_model("models:/{model}").predict(images)\n```\n'
    )
