"""Sweep: train the trials of a study, summarise and report it, and evaluate its champion."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sweeper.core.environment import Environment
from sweeper.core.errors import Interrupted, OutOfTime, SpaceError
from sweeper.core.text import counted
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.choice import MANY, Built, build, check, prepare
from sweeper.report.files import report_path, write_report
from sweeper.report.sweep.page import sweep_pictures, sweep_report
from sweeper.study.opening import open_study
from sweeper.study.rows import best_row
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.champion import evaluate_champion
from sweeper.sweep.choose import Chosen, choose
from sweeper.sweep.describe import describe_run, git_tags
from sweeper.sweep.driver import Driver, out_of_time
from sweeper.sweep.options import SweepOptions
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.records import this_command
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FINISHED, RunInfo, Tracker
from sweeper.tracking.reading import is_another

LEARNING: Final = ("tpe", "gp")  # samplers that choose by the results of earlier trials


def optimize(env: Environment, options: SweepOptions) -> dict[str, Any]:
    """Finish exactly `options.trials` trials of the study, summarise it, and evaluate its champion.

    Returns:
        The JSON that `--json` prints. If the time of the options is over, fewer trials are finished than were asked
        for, and there is no champion.

    Raises:
        UsageError, StudyConflict: something is wrong, or another driver holds the study; nothing was created.
        StudyIncomplete: too many trials failed.
        OutOfTime: the time was over before any trial was finished.
    """
    chosen = choose(env, options.config, options.dataset, options.device, options.precision)
    check(options.engine, chosen.config)
    settings = StudySettings(chosen.config, options.space, chosen.manifest.digest, options.sampler, options.pruner,
                             chosen.config.seed)  # fmt: skip
    images = SharedSplits(load(chosen.config, chosen.folder))
    _check_batch_sizes(options, images)
    prepare(options.engine)
    recorded = env.journal / options.study
    study = open_study(options.study, settings, env.storage, partial(is_another, recorded))
    try:
        with (
            Signals() as signals,
            study.answering(),
            _engine(env, options, chosen, images, study) as built,
            tracking(env, signals) as tracker,
        ):
            before = study.finished()
            tracker.reconcile(study.name)
            tracker.catch_up(study.name)
            if study.continued:
                done = f"{counted(before, 'trial')} finished"
                env.say(f"study {study.name!r} exists with the same settings: continuing, {done}")
            study.set_target(options.trials, built.engine.slots if built else 1, this_command())
            in_time = built is None or _train(env, options, chosen, images, study, built, tracker, signals)
            result = _conclude(env, options.final and in_time, chosen, images, study, tracker, signals)
            return result | {"added": study.finished() - before}
    except Interrupted:
        env.warn(f"study {study.name!r} was interrupted; the same command continues it")
        raise
    finally:
        study.close()


def check_finished(result: Mapping[str, Any], trials: int) -> None:
    """Fail if a sweep has fewer finished trials than were asked for.

    Raises:
        OutOfTime: one line that says how many.
    """
    if result["finished"] < trials:
        raise out_of_time(result["finished"], trials)


def _check_batch_sizes(options: SweepOptions, images: SharedSplits) -> None:
    """Refuse a space with a batch that is larger than a training set.

    Raises:
        SpaceError: one line.
    """
    smallest = min(len(split.train) for split in images)
    sizes = options.space.dimensions["batch_size"].extremes() if "batch_size" in options.space.dimensions else ()
    for size in sizes:
        if size > smallest:
            raise SpaceError(f"search space: batch_size={size}: larger than the {smallest} training images")


@contextmanager
def _engine(
    env: Environment, options: SweepOptions, chosen: Chosen, images: SharedSplits, study: Study
) -> Iterator[Built | None]:
    """Yield the engine for the missing trials, or None if none is missing; close it at the end of the block.

    It is built before the tracker's thread starts, which needs the variables that workers must not have.
    """
    missing = max(0, options.trials - study.finished())
    if not missing and not study.running():
        yield None
        return
    learning = study.settings.sampler in LEARNING and options.engine.workers is None
    few = max(1, options.trials // 5) if learning else missing
    built = build(options.engine, chosen.config, images, missing, few=few)
    if built.engine.slots == few < missing and built.name in MANY:
        env.say(
            f"{few} trials at a time: sampler {study.settings.sampler} learns from finished trials, and with more in "
            "flight it would choose blindly. Set another number with --workers, or use --sampler qmc, which needs no "
            "results."
        )
    try:
        yield built
    finally:
        built.engine.close()


def _train(
    env: Environment, options: SweepOptions, chosen: Chosen, images: SharedSplits, study: Study, built: Built,
    tracker: Tracker, signals: Signals,
) -> bool:  # fmt: skip
    """Train the missing trials. Returns False if the deadline came first.

    Raises:
        OutOfTime: the deadline came, and no trial is finished.
    """

    def describe(trial: Trial) -> RunInfo:
        info = describe_run(chosen, trial.config, images, kind="trial", threads=built.threads, engine=built.name)
        tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(trial.number)}
        return replace(info, key=f"{study.uid}/{trial.number}", name=f"{trial.number:03d} {trial.config.placement}",
                       folder=f"{study.name}/{trial.number:04d}", tags=tags)  # fmt: skip

    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    view = make_view(_progress(study, options.trials), json_output=env.json_output)
    try:
        driver = Driver(study, built.engine, tracker, describe, view, deadline=deadline, retries=options.retries,
                        signals=signals)  # fmt: skip
        driver.run(options.trials)
    except OutOfTime:
        if not study.finished():
            raise
        return False
    finally:
        view.close()
        built.engine.close()  # frees its memory and cores before the champion is trained
    return True


def _progress(study: Study, target: int) -> Progress:
    rows = study.rows()
    best = best_row(rows)
    return Progress(
        target=target,
        finished=study.finished(),
        at_start=study.finished(),
        pruned=sum(row.state == "pruned" for row in rows),
        best=None if best is None or best.value is None else (best.value, best.number),
    )


def _conclude(
    env: Environment, final: bool, chosen: Chosen, images: SharedSplits, study: Study, tracker: Tracker,
    signals: Signals,
) -> dict[str, Any]:  # fmt: skip
    """Summarise the study, evaluate its champion if `final`, and write the report."""
    with signals.raised():
        record = study.record()
        pictures, table = sweep_pictures(env, record)
    info = _summary_run(chosen, study)
    summary = _summarise(study, tracker, info, {**pictures, "trials.csv": table})
    summary["journal"] = str(env.journal / study.name)
    best = study.best()
    if best is not None and final:
        summary["test"] = evaluate_champion(env, chosen, study, best, images[0].train[:2], tracker, signals)
    with signals.raised():
        page = sweep_report(env, record, pictures)
    path = report_path(env, study.name)
    write_report(path, page)
    log = tracker.start(info)
    log.artifact("report.html", page)
    log.end(FINISHED, {}, {"sweeper.state": "complete"})
    return summary | {"report": str(path)}


def _summarise(study: Study, tracker: Tracker, info: RunInfo, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Record the sweep's summary run: its best trial, its table and its figures, which are `files`."""
    rows = study.rows()
    best = best_row(rows)
    states = [row.state for row in rows]
    counts = {state: states.count(state) for state in ("complete", "pruned", "failed")}
    summary: dict[str, Any] = {
        "study": study.name,
        "finished": study.finished(),
        **counts,
        "best": None if best is None else {"trial": best.number, "val_accuracy": best.value, "val_loss": best.loss,
                                           "params": dict(best.params)},
    }  # fmt: skip
    log = tracker.start(info)
    for name, content in files.items():
        log.artifact(f"study/{name}", content)
    log.artifact("study/summary.json", json.dumps(summary, indent=2).encode())
    metrics = {f"study/{state}": float(count) for state, count in counts.items()}
    if best is not None and best.value is not None:
        metrics |= {"best/val_accuracy": best.value, "best/val_loss": best.loss or 0.0, "best/trial": best.number}
    log.end(FINISHED, metrics, {"sweeper.state": "complete"})
    return summary


def _summary_run(chosen: Chosen, study: Study) -> RunInfo:
    """The record of the sweep's summary run."""
    pruned = sum(row.state == "pruned" for row in study.rows())
    return RunInfo(
        key=f"{study.uid}/study", name=f"study {study.name}"[:18], folder=f"{study.name}/study",
        params={k: str(v) for k, v in study.settings.describe().items()},
        tags={"sweeper.kind": "study", "sweeper.study": study.name, "sweeper.dataset": chosen.manifest.name,
              "sweeper.dataset_sha256": chosen.manifest.digest, **git_tags()},
        description=f"Summary of study **{study.name}**: {study.finished()} trials finished, {pruned} of them pruned. "
                    f"The trials are the runs with the tags `sweeper.study` = {study.name} and `sweeper.kind` = trial.",
        run_id=os.environ.get("MLFLOW_RUN_ID"),  # of `mlflow run -e optimize`
    )  # fmt: skip
