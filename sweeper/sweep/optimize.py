"""Sweep: train the trials of a study, summarise and report it, and evaluate its champion."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sweeper.core.config import RunConfig, finite
from sweeper.core.cores import cores
from sweeper.core.environment import Environment
from sweeper.core.errors import Interrupted, OutOfTime, SpaceError, StudyIncomplete
from sweeper.core.experiments import train_options
from sweeper.core.text import counted
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.base import Engine
from sweeper.engine.choice import MANY, Built, build, check, prepare
from sweeper.report.files import report_path, write_report
from sweeper.report.sweep.page import sweep_files, sweep_report
from sweeper.study.edges import edges
from sweeper.study.known import Known
from sweeper.study.opening import open_study
from sweeper.study.rows import ranking
from sweeper.study.samplers import drawn_at_random
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.champion import evaluate_champion
from sweeper.sweep.choose import Chosen, choose
from sweeper.sweep.describe import describe_run, git_tags
from sweeper.sweep.driver import Driver
from sweeper.sweep.finalists import Best, Plan, best_of_search, plan, recorded_runs, train_finalists, usual_finalists
from sweeper.sweep.networks import check_networks
from sweeper.sweep.options import SweepOptions
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.reasons import out_of_time
from sweeper.sweep.records import this_command
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FINISHED, RunInfo, Tracker
from sweeper.tracking.reading import is_another

LEARNING: Final = ("tpe", "gp")  # samplers that choose by the results of earlier trials


def optimize(env: Environment, options: SweepOptions, known: Sequence[Known] = ()) -> dict[str, Any]:
    """Finish exactly `options.trials` trials of the study, summarise it, and evaluate its champion.

    The configurations `known`, which lie in the space, are trained first and count among the trials.

    Returns:
        The JSON that `--json` prints. After the timeout, fewer trials are finished than requested, and there is no
        champion.

    Raises:
        UsageError, StudyConflict: something is wrong, or another driver holds the study; nothing was created.
        StudyIncomplete: too many trials failed.
        OutOfTime: the timeout passed before any trial finished.
    """
    chosen = choose(env, options.config, options.dataset, options.device, options.precision, options.source)
    check(options.engine, chosen.config)
    check_networks(options.space.networks(chosen.config), chosen.source.spec)
    settings = StudySettings(chosen.config, options.space, chosen.source.spec.sha256, options.sampler, options.pruner,
                             chosen.config.seed, options.one_seed, metric=options.metric)  # fmt: skip
    images = SharedSplits(load(options.space.smallest_batch(chosen.config), chosen.source))
    _check_batch_sizes(options, images)
    prepare(options.engine)
    recorded = env.journal / options.study
    study = open_study(options.study, settings, env.storage, partial(is_another, recorded), known)
    try:
        with (
            Signals() as signals,
            study.answering(),
            _engine(env, options, chosen, images, study) as built,
            tracking(env, signals, system_metrics=options.system_metrics) as tracker,
        ):
            before = study.finished()
            tracker.reconcile(study.name)
            tracker.catch_up(study.name)
            if study.continued:
                done = f"{counted(before, 'trial')} finished"
                env.say(f"study {study.name!r} exists with the same settings: continuing it ({done})")
            study.forget_orders()
            _say_known(env, study, options.trials)
            study.set_target(options.trials, built.engine.slots if built else 1, this_command())
            deadline = None if options.timeout is None else time.monotonic() + options.timeout
            finalists = _train(env, options, chosen, images, study, built, tracker, signals, deadline)
            if built:
                built.engine.close()  # frees its memory and cores before the champion is trained
            best = finalists[0] if finalists else best_of_search(study)
            final = options.final and finalists is not None
            result = _conclude(env, final, chosen, images, study, best, tracker, signals)
            if best is not None:
                result["command"] = _train_command(options, study.settings.configuration(best.params))
            return result | {"added": study.finished() - before, "in_time": finalists is not None}
    except Interrupted:
        env.warn(f"study {study.name!r} was interrupted. Run the same command again to continue.")
        raise
    finally:
        study.close()


def _train_command(options: SweepOptions, best: RunConfig) -> str:
    """Return the command that trains a configuration of the study again."""
    machine = {"--device": options.device, "--precision": options.precision}
    given = [word for name, value in machine.items() if value != "auto" for word in (name, value)]
    return shlex.join(["sweeper", "train", *train_options(best), *given])


def _say_known(env: Environment, study: Study, trials: int) -> None:
    """Print how many enqueued configurations are trained first, and how many do not fit into `trials`."""
    waiting = study.waiting()
    first = min(waiting, max(0, trials - study.finished() - study.running()))
    if first:
        env.say(f"{counted(first, 'known configuration')} to train first")
    if later := waiting - first:
        env.say(f"{counted(later, 'known configuration')} left in the queue: --trials {trials} is too small")


def check_finished(result: Mapping[str, Any], trials: int) -> None:
    """Raise an error if a sweep has fewer finished trials than requested, or untrained finalists.

    Raises:
        OutOfTime: one line that says how many.
        StudyIncomplete: the space has no configuration left.
    """
    if not result["in_time"]:
        if result["finished"] < trials:
            raise out_of_time(result["finished"], trials)
        raise OutOfTime(
            "--timeout was reached before all finalists were trained. Run the same command again to continue."
        )
    if result["finished"] < trials:
        raise StudyIncomplete(
            f"{result['finished']} of {trials} trials finished: the last proposals all repeated earlier ones. Lower "
            "--trials, or leave --one-seed out to train repeats with other seeds."
        )


def _check_batch_sizes(options: SweepOptions, images: SharedSplits) -> None:
    """Refuse a space with a batch that is larger than a training set.

    Raises:
        SpaceError: one line.
    """
    smallest = min(len(split.train) for split in images)
    sizes = options.space.dimensions["batch_size"].extremes() if "batch_size" in options.space.dimensions else ()
    for size in sizes:
        if size > smallest:
            raise SpaceError(
                f"search space: batch_size={size}: larger than the {smallest} training images. Use a smaller one."
            )


@contextmanager
def _engine(
    env: Environment, options: SweepOptions, chosen: Chosen, images: SharedSplits, study: Study
) -> Iterator[Built | None]:
    """Yield the engine for the missing trials and finalists, or None if none is missing; close it at the end.

    It is built before the tracker's thread starts, which needs the variables that workers must not have.
    """
    missing = max(0, options.trials - study.finished())
    recorded = recorded_runs(env, study)
    finalists = sum(run.key not in recorded for run in _plan(env, options, study).runs)
    most = max(missing, finalists)
    if not most and not study.running():
        yield None
        return
    learning = study.settings.sampler in LEARNING and options.engine.workers is None
    few = max(1, options.trials // 5) if learning else most
    built = build(options.engine, chosen.config, images, most, few=few, warn=env.warn)
    if built.engine.slots == few < missing and built.name in MANY:
        env.say(
            f"{counted(few, 'trial')} at a time: sampler {study.settings.sampler} learns from finished trials, and "
            "with more in flight it would propose blindly. Set another number with --workers, or use --sampler "
            "qmc, which needs no results."
        )
    try:
        yield built
    finally:
        built.engine.close()


def _plan(env: Environment, options: SweepOptions, study: Study) -> Plan:
    """Return the runs of the finalists as the study stands."""
    wanted = usual_finalists(env, study, options.trials) if options.finalists is None else options.finalists
    return plan(study, ranking(study.rows(), study.metric)[:wanted], options.finalist_seeds)


def _train(
    env: Environment, options: SweepOptions, chosen: Chosen, images: SharedSplits, study: Study, built: Built | None,
    tracker: Tracker, signals: Signals, deadline: float | None,
) -> list[Best] | None:  # fmt: skip
    """Train the missing trials, then the finalists; return these, best first, or None if the deadline passed first.

    Raises:
        OutOfTime: the deadline passed, and no trial is finished.
    """

    def describe(trial: Trial, kind: str = "trial") -> RunInfo:
        threads, engine = (built.threads, built.name) if built else (cores(), "serial")
        return describe_run(chosen, trial.config, images, kind=kind, threads=threads, engine=engine)

    try:
        if built:
            _say_random(env, study)
            _search(env, options, study, built.engine, tracker, describe, signals, deadline)
        wanted = _plan(env, options, study)
        if not wanted.runs:
            return []
        extreme = "highest" if study.metric.maximized else "lowest"
        env.say(
            f"finalists: the best {len(wanted.ranked)} configurations, each trained with "
            f"{counted(options.finalist_seeds, 'fresh seed')}; the {extreme} mean becomes the champion"
        )
        return train_finalists(env, study, wanted, built, tracker, partial(describe, kind="finalist"), signals,
                               deadline=deadline, retries=options.retries)  # fmt: skip
    except OutOfTime:
        if not study.finished():
            raise
        return None


def _say_random(env: Environment, study: Study) -> None:
    """Name the dimensions that the sampler draws at random."""
    settings = study.settings
    if names := drawn_at_random(settings.sampler, settings.space, settings.joint):
        env.say(f"sampler {settings.sampler} draws at random: {', '.join(names)}")


def _search(
    env: Environment, options: SweepOptions, study: Study, engine: Engine, tracker: Tracker,
    describe: Callable[[Trial], RunInfo], signals: Signals, deadline: float | None,
) -> None:  # fmt: skip
    def named(trial: Trial) -> RunInfo:
        info = describe(trial)
        tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(trial.number)}
        return replace(info, key=f"{study.uid}/{trial.number}", name=_name(trial),
                       folder=f"{study.name}/{trial.number:04d}", tags=tags)  # fmt: skip

    view = make_view(_progress(study, options.trials), env)
    try:
        Driver(study, engine, tracker, named, view, deadline=deadline, retries=options.retries,
               signals=signals, orders=study.orders).run(options.trials)  # fmt: skip
    finally:
        view.close()


def _name(trial: Trial) -> str:
    """Return the name of a trial's run in MLflow, whose table shows about 18 characters."""
    seed = f" \N{MIDDLE DOT} seed {trial.config.seed}" if trial.repetition else ""
    return f"{trial.number:03d} {trial.config.placement} b{trial.config.batch_size}{seed}"


def _progress(study: Study, target: int) -> Progress:
    return Progress(
        target=target,
        finished=study.finished(),
        at_start=study.finished(),
        pruned=sum(row.state == "pruned" for row in study.rows()),
        leader=study.leader,
        metric=study.metric,
    )


def _conclude(
    env: Environment, final: bool, chosen: Chosen, images: SharedSplits, study: Study, best: Best | None,
    tracker: Tracker, signals: Signals,
) -> dict[str, Any]:  # fmt: skip
    """Summarise the study, evaluate its champion if `final`, and write the report."""
    with signals.raised():
        record = study.record()
        files = sweep_files(env, record)
    info = _summary_run(chosen, study)
    summary = _summarise(study, best, tracker, info, files)
    summary["journal"] = str(env.journal / study.name)
    if best is not None and final:
        summary["test"] = evaluate_champion(env, chosen, study, best, images[0].train[:2], tracker, signals)
    with signals.raised():
        page = sweep_report(env, record, files)
    path = report_path(env, study.name)
    write_report(path, page)
    log = tracker.start(info)
    log.artifact("report.html", page)
    log.end(FINISHED, {}, {"sweeper.state": "complete"})
    return summary | {"report": str(path)}


def _summarise(
    study: Study, best: Best | None, tracker: Tracker, info: RunInfo, files: Mapping[str, bytes]
) -> dict[str, Any]:
    """Record the sweep's summary run: its best trial, its tables and its figures, which are `files`."""
    rows = study.rows()
    states = [row.state for row in rows if row.copy_of is None]
    counts = {state: states.count(state) for state in ("complete", "pruned", "failed")}
    if len(states) < len(rows):
        counts["duplicate"] = len(rows) - len(states)  # of 0.1.0, which did not train them
    summary: dict[str, Any] = {
        "study": study.name,
        "metric": study.metric.name,
        "finished": study.finished(),
        **counts,
        "best": None if best is None else best.plain(),
        "remarks": [] if best is None else edges(study.settings.space, best.params),
    }
    log = tracker.start(info)
    for name, content in files.items():
        log.artifact(f"study/{name}", content)
    log.artifact("study/summary.json", json.dumps(summary, indent=2).encode())
    metrics = {f"study/{state}": float(count) for state, count in counts.items()}
    if best is not None:
        metrics |= {f"best/{name}": float(value) for name, value in best.numbers().items() if finite(value)}
    log.end(FINISHED, metrics, {"sweeper.state": "complete"})
    return summary


def _summary_run(chosen: Chosen, study: Study) -> RunInfo:
    """The record of the sweep's summary run."""
    pruned = sum(row.state == "pruned" for row in study.rows())
    return RunInfo(
        key=f"{study.uid}/study", name=f"study {study.name}"[:18], folder=f"{study.name}/study",
        params={k: str(v) for k, v in study.settings.describe().items()},
        tags={"sweeper.kind": "study", "sweeper.study": study.name, "sweeper.dataset": chosen.source.spec.name,
              "sweeper.dataset_sha256": chosen.source.spec.sha256, **git_tags()},
        description=f"Summary of study **{study.name}**, which searches for {study.metric.name} "
                    f"({study.metric.direction}): {study.finished()} trials finished, {pruned} of them pruned. "
                    f"The trials are the runs with the tags `sweeper.study` = {study.name} and `sweeper.kind` = trial.",
        run_id=os.environ.get("MLFLOW_RUN_ID"),  # of `mlflow run -e optimize`
    )  # fmt: skip
