"""What each command does, put together from the parts: data, engine, tracker, driver.

`cli` parses and prints; everything here can be called from Python as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import ConfigError, Interrupted, OutOfTime, SpaceError
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.choice import Built, check, prepare
from sweeper.report.files import report_path, write_report
from sweeper.report.sweep.page import sweep_pictures, sweep_report
from sweeper.study.opening import open_study
from sweeper.study.rows import best_row
from sweeper.study.space import Space
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.champion import _champion
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import _git_tags
from sweeper.sweep.driver import Driver, out_of_time
from sweeper.sweep.options import SweepOptions, _Sweep
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FINISHED, RunInfo, Tracker
from sweeper.tracking.store import preflight


def optimize(env: Environment, chosen: Chosen, options: SweepOptions) -> dict[str, Any]:
    """Finish exactly `options.trials` trials of the study, summarise it, and retrain its best once.

    Returns:
        What `--json` prints. Where the time of the options was over, fewer trials are finished than were asked for, and
        none is retrained.

    Raises:
        UsageError, StudyConflict: something is wrong, or another driver holds the study; nothing was created.
        StudyIncomplete: too many trials failed; OutOfTime: the time was over before any trial was finished.
    """
    _check_space(options.space, chosen)
    check(options.engine, chosen.config)
    settings = StudySettings(chosen.config, options.space, chosen.manifest.digest, options.sampler, options.pruner,
                             options.seed)  # fmt: skip
    if env.tracking_uri not in (NONE, OFFLINE):
        preflight(env.tracking_uri)
    images = SharedSplits(load(chosen.config, chosen.folder))
    prepare(options.engine)
    study = open_study(options.study, settings, env.storage)
    sweep = _Sweep(env, chosen, options, images, study)
    try:
        with Signals() as signals, study.answering(), sweep.engine() as built, tracking(env, signals) as tracker:
            return _optimize(sweep, built, tracker, signals)
    except Interrupted:
        env.warn(f"study {study.name!r} was interrupted; the same command continues it")
        raise
    finally:
        study.close()


def _optimize(sweep: _Sweep, built: Built | None, tracker: Tracker, signals: Signals) -> dict[str, Any]:
    env, study, options = sweep.env, sweep.study, sweep.options
    before = study.finished()
    tracker.reconcile(study.name)
    tracker.catch_up(study.name)
    if study.continued:
        env.say(f"study {study.name!r} exists with the same settings: continuing, {before} trials are finished")
    study.set_target(options.trials, built.engine.slots if built else 1)
    late = built is not None and not _run_trials(sweep, built, tracker, signals)
    with signals.raised():
        record = study.record()
        pictures, table = sweep_pictures(env, record)
    summary = _summarise(env, sweep.chosen, study, tracker, {**pictures, "trials.csv": table})
    best = study.best()
    if best is not None and options.final and not late:  # the best of all that are wanted is looked at, once
        summary["test"] = _champion(sweep, best, tracker, signals)
    with signals.raised():
        page = sweep_report(env, record, pictures)
    summary["report"] = _report(env, sweep.chosen, study, tracker, page)
    return summary | {"added": study.finished() - before}


def check_finished(result: Mapping[str, Any], trials: int) -> None:
    """Refuse to call a sweep done that has fewer finished trials than were asked for.

    Raises:
        OutOfTime: one line that says how many.
    """
    if result["finished"] < trials:
        raise out_of_time(result["finished"], trials)


def _check_space(space: Space, chosen: Chosen) -> None:
    """Refuse a space any part of which could not be trained.

    Raises:
        SpaceError: one line.
    """
    space.validate(chosen.config)
    images = chosen.manifest.train[1].shape[0]
    smallest = {
        "test": images,
        "holdout": images - chosen.manifest.holdout,
        "folds": images - -(-images // max(chosen.config.folds, 1)),
    }[chosen.config.split]
    smallest = min(smallest, chosen.config.train_images or smallest)
    sizes = space.dimensions["batch_size"].extremes() if "batch_size" in space.dimensions else ()
    for size in (*sizes, chosen.config.batch_size):
        if size > smallest:
            raise SpaceError(f"search space: batch_size={size}: larger than the {smallest} training images")
    if chosen.config.folds > images:
        raise ConfigError(f"folds={chosen.config.folds}: more than the {images} training images")


def _run_trials(sweep: _Sweep, built: Built, tracker: Tracker, signals: Signals) -> bool:
    """Train what is missing; whether it came to the end before the deadline.

    Raises:
        OutOfTime: the time was over, and no trial is finished.
    """
    study, options = sweep.study, sweep.options
    progress = Progress(target=options.trials, finished=study.finished(), at_start=study.finished())
    rows = study.rows()
    progress.pruned = sum(r.state == "pruned" for r in rows)
    if (best := best_row(rows)) is not None and best.value is not None:
        progress.best = best.value, best.number
    view = make_view(progress, json_output=sweep.env.json_output)
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    try:
        driver = Driver(study, built.engine, tracker, lambda trial: sweep.describe(trial, built), view,
                        deadline=deadline, retries=options.retries, signals=signals)  # fmt: skip
        driver.run(options.trials)
    except OutOfTime:
        if not study.finished():
            raise
        return False
    finally:
        view.close()
        built.engine.close()  # nothing else is to be trained by it: its memory and its cores are free
    return True


def _summarise(
    env: Environment, chosen: Chosen, study: Study, tracker: Tracker, files: Mapping[str, bytes]
) -> dict[str, Any]:
    """Record the study's own run: its table and its figures, which are `files`, and its best trial."""
    rows = study.rows()
    best = best_row(rows)
    states = [row.state for row in rows]
    summary: dict[str, Any] = {
        "study": study.name,
        "finished": states.count("complete") + states.count("pruned"),
        "complete": states.count("complete"),
        "pruned": states.count("pruned"),
        "failed": states.count("failed"),
        "best": None if best is None else {"trial": best.number, "val_accuracy": best.value, "val_loss": best.loss,
                                           "params": dict(best.params)},
    }  # fmt: skip
    log = tracker.start(_study_run(chosen, study))
    for name, content in files.items():
        log.artifact(f"study/{name}", content)
    log.artifact("study/summary.json", json.dumps(summary, indent=2).encode())
    metrics = {f"study/{state}": float(states.count(state)) for state in ("complete", "pruned", "failed")}
    if best is not None and best.value is not None:
        metrics |= {"best/val_accuracy": best.value, "best/val_loss": best.loss or 0.0, "best/trial": best.number}
    log.end(FINISHED, metrics, {"sweeper.state": "complete"})
    return summary | {"journal": str(env.journal / study.name)}


def _study_run(chosen: Chosen, study: Study) -> RunInfo:
    """The record of the study's own run."""
    states = [row.state for row in study.rows()]
    pruned = states.count("pruned")
    return RunInfo(
        key=f"{study.uid}/study", name=f"study {study.name}"[:18], folder=f"{study.name}/study",
        params={k: str(v) for k, v in study.settings.describe().items()},
        tags={"sweeper.kind": "study", "sweeper.study": study.name, "sweeper.dataset": chosen.manifest.name,
              "sweeper.dataset_sha256": chosen.manifest.digest, **_git_tags()},
        description=f"Summary of study **{study.name}**: {states.count('complete') + pruned} trials finished, "
                    f"{pruned} of them pruned. The trials are the runs with the tag "
                    f"`sweeper.study` = {study.name} and `sweeper.kind` = trial.",
        run_id=os.environ.get("MLFLOW_RUN_ID"),  # of `mlflow run -e optimize`
    )  # fmt: skip


def _report(env: Environment, chosen: Chosen, study: Study, tracker: Tracker, page: bytes) -> str:
    """Write the study's report, and record it in the study's own run; where it lies."""
    path = report_path(env, study.name)
    write_report(path, page)
    log = tracker.start(_study_run(chosen, study))
    log.artifact("report.html", page)
    log.end(FINISHED, {}, {"sweeper.state": "complete"})
    return str(path)
