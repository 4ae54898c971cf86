"""The champion of a sweep: the best configuration, retrained, evaluated once on the test images, and registered."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Environment, Say
from sweeper.core.images import ImageSpec
from sweeper.core.intervals import with_interval
from sweeper.core.results import EpochResult
from sweeper.data.images import Labelled
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load_test
from sweeper.engine.aside import call, stream
from sweeper.report.run.errors import errors_picture
from sweeper.study.study import Study
from sweeper.sweep.champion_notes import model_note, version_note
from sweeper.sweep.champion_record import recorded_champions
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import describe_run
from sweeper.sweep.finalists import Best
from sweeper.sweep.retrain import Champion, export, retrain
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import FLUSH_SECONDS
from sweeper.tracking.base import FINISHED, KILLED, RunInfo, Tracker
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.notes import Note
from sweeper.tracking.reading import WEIGHTS
from sweeper.tracking.store import reason_of


def evaluate_champion(
    env: Environment, chosen: Chosen, study: Study, best: Best, example: Labelled, tracker: Tracker, signals: Signals
) -> dict[str, Any]:
    """Retrain the best configuration on all training images, and evaluate it on the test images for the first time.

    The test images are used for that one evaluation only. `example` is two images for the registered model.
    """
    config = study.settings.configuration(best.params).derive(split="test", folds=0, train_images=0)
    folder = f"{study.name}/champion-{best.trial:04d}"
    metrics = recorded_champions(env, study.name, study.uid).get(best.trial)
    if metrics is None:
        everything = SharedSplits([load_test(chosen.source)])
        info = _describe(chosen, study, best, config, everything, folder)
        metrics = retrain_and_test(env, info, config, everything, tracker, signals)
    if isinstance(tracker, MlflowTracker) and not tracker.registry.registered(env.journal / folder):
        with signals.raised():  # the next command can do it again
            name, images = f"sweeper-{study.name}", chosen.source.spec
            notes = (
                model_note(name, study, images),
                partial(version_note, name, study, chosen, best, config, metrics),
            )
            register(env, name, notes, tracker, config, images, folder, example)
    return {"trial": best.trial, **metrics}


def _describe(
    chosen: Chosen, study: Study, best: Best, config: RunConfig, everything: SharedSplits, folder: str
) -> RunInfo:
    info = describe_run(chosen, config, everything, kind="champion", threads=cores())
    tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(best.trial), "sweeper.test": "once"}
    words = (
        f"The best configuration of study **{study.name}** (trial {best.trial}) by {study.metric.words}, retrained on "
        f"all {len(everything[0].train):,} training images, validation included, and evaluated once on the "
        f"{len(everything[0].val):,} test images. The 95 % interval from `test/accuracy_low` to "
        "`test/accuracy_high` allows for other test images, not for another seed."
    )
    return replace(info, key=f"{study.uid}/champion/{best.trial}", name=f"champion {best.trial:03d}",
                   folder=folder, tags=tags, description=words)  # fmt: skip


def retrain_and_test(
    env: Environment, info: RunInfo, config: RunConfig, everything: SharedSplits, tracker: Tracker, signals: Signals
) -> dict[str, float]:
    """Train a configuration on all training images, evaluate it once on the test images, and record it.

    Returns:
        Its metrics on the test images, with the interval of the accuracy.
    """
    log = tracker.start(info)
    try:
        with closing(stream(retrain, config, everything, cores())) as training:
            champion = _advance(training, config, log.epoch, env.say, signals)
    except BaseException:
        log.end(KILLED, {}, {"sweeper.state": "killed"})
        raise
    verdict = champion.verdict
    scores = {"test/accuracy": verdict.accuracy, "test/loss": verdict.loss, "test/ece": verdict.ece}
    metrics = with_interval(scores, len(everything[0].val))
    log.artifact("config.json", config.model_dump_json(indent=2).encode())
    log.artifact(WEIGHTS, champion.weights)
    log.artifact("evaluation/confusion.csv", verdict.confusion_csv())
    log.artifact("evaluation/errors.png", errors_picture(champion.mistakes))
    log.end(FINISHED, metrics, {"sweeper.state": "complete", "sweeper.weights_sha256": champion.weights_sha256})
    return metrics


def _advance(
    training: Generator[EpochResult, None, Champion],
    config: RunConfig,
    record: Callable[[int, dict[str, float]], None],
    say: Say,
    signals: Signals,
) -> Champion:
    """Run the training to its end. Only train values are recorded: its validation images are training images."""
    while True:
        try:
            with signals.raised():
                epoch = next(training)
        except StopIteration as stop:
            champion: Champion = stop.value
            return champion
        say(f"retraining the champion on all training images: epoch {epoch.epoch}/{config.epochs}")
        record(epoch.epoch, {k: v for k, v in epoch_metrics(epoch).items() if not k.startswith(("val/", "gap/"))})


def register(
    env: Environment,
    name: str,
    notes: tuple[Note, Callable[[str], Note]],
    tracker: MlflowTracker,
    config: RunConfig,
    images: ImageSpec,
    folder: str,
    example: Labelled,
    what: str = "champion",
) -> None:
    """Register a retrained configuration as an MLflow model, unless it is.

    If the server is down or refuses it, warn: the command continues.
    """
    if not tracker.flush(FLUSH_SECONDS):
        env.warn(f"the {what} is not registered yet: MLflow does not answer. Run the same command again to retry.")
        return

    def save(path: str, described: Any) -> Any:
        weights = tracker.registry.weights(env.journal / folder)
        return call(export, config, images, weights, example, path, described)

    try:
        number = tracker.registry.register(env.journal / folder, save, name, "champion", *notes)
    except Exception as error:  # noqa: BLE001 - of MLflow, or of torch if it cannot export the network
        env.warn(f"the {what} is not registered yet ({reason_of(error)}). Run the same command again to retry.")
        return
    if number:
        env.say(f"registered model {name!r}, version {number}, alias champion")
