"""The best configuration of a sweep: retrained, tested once, registered."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Environment, Say
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load_test
from sweeper.engine.aside import call, stream
from sweeper.report.run.errors import errors_picture
from sweeper.sweep.describe import describe_run
from sweeper.sweep.export import save_model
from sweeper.sweep.options import _Sweep
from sweeper.sweep.retrain import Champion, retrain
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import FLUSH_SECONDS
from sweeper.tracking.base import FINISHED, KILLED, Tracker
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.reading import WEIGHTS, read_events
from sweeper.tracking.store import reason_of


def _champion(sweep: _Sweep, best: Trial, tracker: Tracker, signals: Signals) -> dict[str, Any]:
    """Retrain the best configuration on all training images, and evaluate it once on the test images.

    The test images take no part in anything but that one evaluation, after the last epoch.
    """
    env, study = sweep.env, sweep.study
    config = best.config.derive(split="test", folds=0, train_images=0)
    folder = f"{study.name}/champion-{best.number:04d}"
    result = _recorded_test(env, folder, study.uid) or _retrain(sweep, best, config, folder, tracker, signals)
    if isinstance(tracker, MlflowTracker) and not tracker.registry.registered(env.journal / folder):
        with signals.raised():  # it can be done again
            _register(sweep, tracker, config, folder)
    return result


def _retrain(
    sweep: _Sweep, best: Trial, config: RunConfig, folder: str, tracker: Tracker, signals: Signals
) -> dict[str, Any]:
    env, chosen, study = sweep.env, sweep.chosen, sweep.study
    everything = SharedSplits([load_test(config, chosen.folder)])
    info = describe_run(chosen, config, everything, kind="champion", threads=cores())
    tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(best.number), "sweeper.test": "once"}
    words = (
        f"The best configuration of study **{study.name}** (trial {best.number}), retrained on all "
        f"{len(everything[0].train):,} training images, validation included, and evaluated once on the "
        f"{len(everything[0].val):,} test images."
    )
    log = tracker.start(replace(info, key=f"{study.uid}/champion/{best.number}", name=f"champion {best.number:03d}",
                                folder=folder, tags=tags, description=words))  # fmt: skip
    try:
        with closing(stream(retrain, config, everything, cores())) as training:
            champion = _advance(training, config, log.epoch, env.say, signals)
    except BaseException:
        log.end(KILLED, {}, {"sweeper.state": "killed"})
        raise
    verdict = champion.verdict
    metrics = {"test/accuracy": verdict.accuracy, "test/loss": verdict.loss, "test/ece": verdict.ece}
    log.artifact("config.json", config.model_dump_json(indent=2).encode())
    log.artifact(WEIGHTS, champion.weights)
    log.artifact("evaluation/confusion.csv", verdict.confusion_csv())
    log.artifact("evaluation/errors.png", errors_picture(champion.mistakes))
    log.end(FINISHED, metrics, {"sweeper.state": "complete", "sweeper.weights_sha256": champion.weights_sha256})
    return {"trial": best.number, **metrics}


def _advance(
    training: Generator[EpochResult, None, Champion],
    config: RunConfig,
    record: Callable[[int, dict[str, float]], None],
    say: Say,
    signals: Signals,
) -> Champion:
    """Run the champion's training; only its train values mean anything, so only they are recorded."""
    while True:
        try:
            with signals.raised():
                epoch = next(training)
        except StopIteration as stop:
            champion: Champion = stop.value
            return champion
        say(f"retraining the best on all training images: epoch {epoch.epoch}/{config.epochs}")
        record(epoch.epoch, {k: v for k, v in epoch.metrics().items() if not k.startswith(("val/", "gap/"))})


def _recorded_test(env: Environment, folder: str, uid: str) -> dict[str, Any] | None:
    """The champion's test metrics, where it was evaluated before: it is evaluated once."""
    events = read_events(env.journal / folder)
    if not events or not events[0]["key"].startswith(uid):
        return None
    ends = [e for e in events if e["event"] == "end" and e["status"] == FINISHED]
    return {"trial": int(folder.rpartition("-")[2]), **ends[-1]["metrics"]} if ends else None


def _register(sweep: _Sweep, tracker: MlflowTracker, config: RunConfig, folder: str) -> None:
    """Register the champion as an MLflow model; a server that is away, or refuses it, does not cost the sweep."""
    env, name = sweep.env, f"sweeper-{sweep.study.name}"
    if not tracker.flush(FLUSH_SECONDS):
        env.warn("the champion is not registered yet: MLflow has not answered; the same command does it")
        return

    def save(path: str, described: Any) -> Any:
        weights = tracker.registry.file(env.journal / folder, WEIGHTS)
        return call(save_model, config, weights, sweep.images[0].train[:2], path, described)

    try:
        number = tracker.registry.register(env.journal / folder, save, name, "champion")
    except Exception as error:  # noqa: BLE001 - MLflow's own, or torch's where it cannot export the network
        env.warn(f"the champion is not registered yet ({reason_of(error)}); the same command tries again")
        return
    env.say(f"registered model {name!r}, version {number}, alias champion")
