"""Record the result: the single test of the recommendation, the page, and the run in MLflow."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sweeper.advice.notes import model_note, version_note
from sweeper.advice.page import html, ranking_picture
from sweeper.advice.result import Advice
from sweeper.advice.work import FOLDER
from sweeper.core.cores import cores
from sweeper.core.environment import Environment
from sweeper.core.intervals import with_interval
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load_test
from sweeper.report.files import report_path, write_report
from sweeper.sweep.champion import register, retrain_and_test
from sweeper.sweep.describe import describe_run
from sweeper.sweep.records import this_command
from sweeper.sweep.signals import Signals
from sweeper.tracking.base import FINISHED, RunInfo, Tracker
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.reading import read_events

if TYPE_CHECKING:
    from sweeper.advice.record import Record
    from sweeper.advice.work import Question


def record_summary(
    env: Environment, question: Question, record: Record, advice: Advice, tracker: Tracker, signals: Signals
) -> Advice:  # fmt: skip
    """Evaluate the recommendation once on the test images, write the page, and record both. Return the whole advice."""
    folder = FOLDER + advice.name
    if question.asked.test and advice.complete:
        advice = _tested(env, question, record, advice, tracker, signals)
    path = report_path(env, folder).absolute()
    advice = replace(advice, report=str(path))
    picture = ranking_picture(advice)
    page = html(advice, picture, this_command() or "sweeper.advise(…)")
    write_report(path, page)
    info = RunInfo(
        key=f"{record.uid}/advice", name=folder[:18], folder=f"{folder}/advice",
        params=advice.configuration.to_params(), tags={"sweeper.kind": "advice", "sweeper.study": folder},
        description=f"The answer of `sweeper advise`: {advice.best.placement.value} is recommended. Its runs have the "
                    f"tag `sweeper.study` = {folder}.",
        run_id=os.environ.get("MLFLOW_RUN_ID"),  # of `mlflow run -e advise`
    )  # fmt: skip
    content = json.dumps(advice.plain(), indent=1).encode()
    if info.run_id is None and _shows(env, info, content):
        return advice
    log = tracker.start(info)
    log.artifact("report.html", page)
    log.artifact("ranking.png", picture)
    log.artifact("advice.json", content)
    log.end(FINISHED, {"final/val_accuracy": advice.best.accuracy, "advise/trainings": float(advice.trainings),
                       **advice.test}, {"sweeper.state": "complete"})  # fmt: skip
    return advice


def _shows(env: Environment, info: RunInfo, content: bytes) -> bool:
    """Return True if the run has ended and already shows this advice."""
    events = read_events(env.journal / info.folder)
    if not events or events[-1]["event"] != "end":
        return False
    path = env.journal / info.folder / "artifacts" / "advice.json"
    return path.is_file() and path.read_bytes() == content


def _tested(
    env: Environment, question: Question, record: Record, advice: Advice, tracker: Tracker, signals: Signals
) -> Advice:  # fmt: skip
    """Return the advice with the metrics of its recommendation on the test images, from its record if it has one.

    Then register the model, if asked to.
    """
    config = advice.configuration.derive(split="test", folds=0, train_images=0)
    everything = SharedSplits([load_test(question.chosen.source)])
    info = describe_run(question.chosen, config, everything, kind="champion", threads=cores())
    study = FOLDER + advice.name
    info = replace(
        info, key=f"{record.uid}/recommendation/{config.key}", name="recommendation", folder=f"{study}/recommendation",
        tags={**info.tags, "sweeper.study": study, "sweeper.test": "once", "mlflow.source.name": "sweeper advise"},
        description=f"The recommendation of the advice **{advice.name}**, retrained on all training images, validation "
                    "included, and evaluated once on the test images.",
    )  # fmt: skip
    if known := tracker.recorded(info):
        metrics = with_interval(known.final, len(everything[0].val))
    else:
        metrics = retrain_and_test(env, info, config, everything, tracker, signals)
    advice, name = replace(advice, test=metrics), question.asked.register
    if name and isinstance(tracker, MlflowTracker):
        images = question.chosen.source.spec
        notes = model_note(name, advice, images), partial(version_note, name, question, advice, config)
        with signals.raised():
            register(env, name, notes, tracker, config, images, info.folder, everything[0].train[:2], "recommendation")
    return advice
