"""What each command does, put together from the parts: data, engine, tracker, driver.

`cli` parses and prints; everything here can be called from Python as well.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sweeper import dataset, engine_choice, reports, splits
from sweeper.champion import Champion, retrain
from sweeper.config import EXPERIMENT_TITLES, RunConfig, experiment
from sweeper.dataset import Manifest
from sweeper.engine.aside import call, stream
from sweeper.engine.base import cores
from sweeper.engine.secrecy import public
from sweeper.engine_choice import ONE_WORKER, Built, EngineChoice
from sweeper.environment import NONE, OFFLINE, Environment, Say
from sweeper.errors import ConfigError, Interrupted, OutOfTime, SpaceError, SweeperError, TrainingError
from sweeper.journal import (
    ENGINE_TAG,
    FAILED,
    FINISHED,
    KILLED,
    THREADS_TAG,
    WEIGHTS,
    JournalTracker,
    NullTracker,
    RunInfo,
    Tracker,
    read_events,
)
from sweeper.machine import find_machine
from sweeper.mlflow_model import save_model
from sweeper.preflight import preflight, reason_of
from sweeper.progress import Progress, counted, make_view
from sweeper.results import EpochResult
from sweeper.space import Draw, Space
from sweeper.splits import SharedSplits, Split
from sweeper.study import Study, StudySettings, Trial, best_row, open_study
from sweeper.sweep import RETRIES, Driver, Fixed, Signals, out_of_time
from sweeper.tracking import MlflowTracker, run_id_of

LEARNING: Final = ("tpe", "gp")  # samplers that choose by the results of earlier trials
PACKAGES: Final = ("sweeper", "torch", "numpy")
FLUSH_SECONDS: Final = 60.0  # how long a command waits at its end for what MLflow has not yet
SHORT_FLUSH_SECONDS: Final = 5.0  # the same after an error or a signal


@dataclass(frozen=True)
class Chosen:
    """A configuration with everything resolved that `auto` left open, and the data set it is for."""

    config: RunConfig
    manifest: Manifest
    folder: Path
    substituted: bool  # the sample stands in for FashionMNIST
    hardware: str  # that computes, in words


def choose(env: Environment, number: int, name: str, device: str, precision: str, fields: dict[str, Any]) -> Chosen:
    """The configuration of experiment `number` with `fields`, for this machine and the data set `name`.

    Raises:
        ConfigError, DataError: a value is wrong, or the data set is not there.
    """
    config = experiment(number, **fields)  # before anything is looked for
    machine = call(find_machine, device, precision)
    manifest, folder = dataset.resolve(name, env.data_dir)
    substituted = name == "auto" and manifest.name == "sample"
    if substituted:
        env.warn(
            "FashionMNIST was not found and cannot be downloaded: using the embedded sample of 8,000 of its images "
            "(say --dataset sample to mean it, or --data-dir to name the full set)"
        )
    config = config.derive(device=machine.device, precision=machine.precision, dataset=manifest.name)
    return Chosen(config, manifest, folder, substituted, machine.hardware)


@contextmanager
def tracking(env: Environment, signals: Signals) -> Iterator[Tracker]:
    """The tracker that `env` asks for; at the end of the block, what has not arrived yet is waited for.

    After an error or a signal the wait is short.

    Raises:
        SweeperError: nothing that was recorded can ever arrive.
    """
    tracker: Tracker
    if env.tracking_uri == NONE:
        tracker = NullTracker()
    elif env.tracking_uri == OFFLINE:
        tracker = JournalTracker(env.journal, env.warn)
    else:
        preflight(env.tracking_uri)
        tracker = MlflowTracker(env.journal, env.tracking_uri, _draw, env.warn)
    waiting = None
    try:
        yield tracker
        with signals.raised():
            waiting = tracker.close(FLUSH_SECONDS)
        tracker.check()
    finally:
        if waiting is None:
            waiting = tracker.close(SHORT_FLUSH_SECONDS)
        if waiting:
            with suppress(SweeperError):  # which is the error of the command: it says what has to be done first
                tracker.check()
                missing = counted(waiting, "run")
                env.warn(f"not in MLflow yet: {missing}; carry there what is missing with: sweeper sync {env.journal}")


def _draw(epochs: list[dict[str, float]], title: str) -> bytes:
    from sweeper.report import plots  # matplotlib loads while the first epochs are trained

    return plots.curves(epochs, title)


# --- one run -------------------------------------------------------------------------------------


def train_one(env: Environment, chosen: Chosen, run_id: str | None) -> dict[str, Any]:
    """Train one configuration: a sweep of one. Joins the MLflow run `run_id`, if one is given.

    Returns:
        What `--json` prints: the run, its folder, and its final metrics.

    Raises:
        Diverged, TrainingError: it could not be trained to its end.
    """
    from sweeper.data import Data
    from sweeper.engine.serial import SerialEngine

    images = splits.load(chosen.config, chosen.folder)
    key = uuid.uuid4().hex  # of every attempt
    folder = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{key[:6]}"

    def describe(trial: Trial) -> RunInfo:
        name = f"exp{trial.config.experiment} seed{trial.config.seed}"
        return replace(
            describe_run(chosen, trial.config, images, kind="run", threads=cores()),
            key=key, name=name, folder=folder, run_id=run_id,
        )  # fmt: skip

    source, view = Fixed([chosen.config]), make_view(Progress(target=1, unit="run"), json_output=env.json_output)
    with Signals() as signals, tracking(env, signals) as tracker:
        tracker.reconcile("runs")
        engine = SerialEngine([Data.from_arrays(split) for split in images], cores())
        try:
            driver = Driver(source, engine, tracker, describe, view, keep_results=True, signals=signals,
                            diverged=FAILED)  # fmt: skip
            outcome = driver.run(1)
        finally:
            view.close()
            engine.close()
    if source.outcomes:
        raise TrainingError(source.outcomes[0])
    return {
        "run_id": run_id_of(env.journal, folder, env.tracking_uri) if env.tracking_uri not in (NONE, OFFLINE) else None,
        "journal": None if env.tracking_uri == NONE else str(env.journal / folder),
        "config": chosen.config.model_dump(mode="json"),
        "metrics": outcome.results[0].metrics(),
        "history_sha256": outcome.results[0].history_sha256,
        "weights_sha256": outcome.results[0].weights_sha256,
    }


def describe_run(
    chosen: Chosen, config: RunConfig, images: Sequence[Split], *, kind: str, threads: int, engine: str = "serial"
) -> RunInfo:
    """The record of a run, but for its key, name and folder."""
    counts = {"train_images": len(images[0].train), "val_images": len(images[0].val)}
    tags = {
        "sweeper.kind": kind,
        "sweeper.experiment": str(config.experiment),
        "sweeper.dataset": chosen.manifest.name + (" (FashionMNIST was not found)" if chosen.substituted else ""),
        "sweeper.dataset_sha256": chosen.manifest.digest,
        "sweeper.config_key": config.key,
        THREADS_TAG: str(threads),
        ENGINE_TAG: engine,
        "mlflow.source.name": f"sweeper {'train' if kind == 'run' else 'optimize'}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        **environment_tags(chosen.hardware),
    }
    return RunInfo(
        key="", name="", folder="", params=config.to_params(), tags=tags,
        description=_words(config, counts),
        dataset={"name": chosen.manifest.name, "sha256": chosen.manifest.digest, "source": str(chosen.folder),
                 "profile": counts | {"folds": config.folds, "split": config.split}},
    )  # fmt: skip


def _user() -> str:
    """The user's name, or the number where none belongs to it, as in many a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _words(config: RunConfig, counts: dict[str, int]) -> str:
    """A run in a paragraph that a person can read in MLflow's UI."""
    title = EXPERIMENT_TITLES.get(config.experiment, "")
    of_study = f"Derived from experiment {config.experiment} of the study ({title}). " if title else ""
    rates = f"Dropout rate {config.conv_dropout:.3g} in the convolutional part, {config.head_dropout:.3g} in the head"
    split = {
        "blog": "`val` is the test set, as in the study: nothing may be selected by it",
        "holdout": "`val` is held out of the training images; the test images were not loaded",
        "folds": f"all values are means over {config.folds} stratified folds; the test images were not loaded",
    }[config.split]
    return (
        f"{of_study}**{config.model}** network, placement **{config.placement.value}**. {rates}. "
        f"{config.epochs} epochs of {counts['train_images']:,} images, batch size {config.batch_size}, "
        f"augmentation {config.augmentation}, AdamW at {config.lr:g} ({config.schedule}). "
        f"Judged on {counts['val_images']:,} images: {split}. "
        "Train values are clean: eval mode, no augmentation, a fixed subset."
    )


def environment_tags(hardware: str) -> dict[str, str]:
    """What the bits of a result depend on, besides its configuration: code, packages, and the processor, `hardware`."""
    return {
        "sweeper.versions": ", ".join([f"python {platform.python_version()}", *map(_versioned, PACKAGES)]),
        "sweeper.hardware": hardware,
        **_git_tags(),
    }


def _versioned(package: str) -> str:
    return f"{package} {version(package)}"


@cache
def _git_tags() -> dict[str, str]:
    """The commit of the code, and whether files were changed since, where it runs from a git checkout."""

    def git(*command: str) -> str:
        argv = ["git", "-C", str(Path(__file__).parent), *command]
        done = subprocess.run(argv, env=public(), capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit} | ({"sweeper.git.changed": "true"} if changes else {})


# --- a sweep -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepOptions:
    """What `sweeper optimize` was asked for."""

    study: str
    trials: int
    space: Space
    sampler: str
    pruner: str
    seed: int
    timeout: float | None
    final: bool
    engine: EngineChoice = ONE_WORKER
    retries: int = RETRIES


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
    engine_choice.check(options.engine, chosen.config)
    settings = StudySettings(chosen.config, options.space, chosen.manifest.digest, options.sampler, options.pruner,
                             options.seed)  # fmt: skip
    if env.tracking_uri not in (NONE, OFFLINE):
        preflight(env.tracking_uri)
    images = SharedSplits(splits.load(chosen.config, chosen.folder))
    engine_choice.prepare(options.engine)
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


@dataclass(frozen=True)
class _Sweep:
    """What all parts of a sweep need."""

    env: Environment
    chosen: Chosen
    options: SweepOptions
    images: SharedSplits
    study: Study

    @contextmanager
    def engine(self) -> Iterator[Built | None]:
        """What trains the trials that are missing, or None if none is; closed at the end of the block.

        It is made before the tracker's thread, which needs the variables that workers must not have.
        """
        if self.study.finished() >= self.options.trials and not self.study.running():
            yield None
            return
        missing = max(0, self.options.trials - self.study.finished())
        learning = self.options.sampler in LEARNING
        few = max(1, self.options.trials // 5) if learning and self.options.engine.workers is None else missing
        built = self._build(missing, few)
        if built.engine.slots == few < missing and built.name in engine_choice.MANY:
            self.env.say(
                f"{few} trials at a time: sampler {self.options.sampler} learns from finished ones, and with more in "
                "flight it would choose blindly; --workers sets another number, --sampler qmc needs no results"
            )
        try:
            yield built
        finally:
            built.engine.close()

    def _build(self, missing: int, few: int) -> Built:
        choice = self.options.engine
        if engine_choice.chosen(choice, self.chosen.config.device) == "processes":
            return engine_choice.processes(self.images, choice.workers or 1, missing)
        from sweeper import engines  # and with it torch

        return engines.build(choice, self.images, self._alike(), missing, self.env.say, few=few)

    def _alike(self) -> list[RunConfig]:
        """Configurations such as the search will ask for."""
        draw = Draw(self.options.seed)
        return [
            self.options.space.suggest(self.chosen.config, draw) for _ in range(max(engine_choice.MEMBERS.values()))
        ]

    def describe(self, trial: Trial, built: Built) -> RunInfo:
        """The record of a trial."""
        info = describe_run(self.chosen, trial.config, self.images, kind="trial", threads=built.threads,
                            engine=built.name)  # fmt: skip
        study = self.study
        tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(trial.number)}
        return replace(info, key=f"{study.uid}/{trial.number}", name=f"{trial.number:03d} {trial.config.placement}",
                       folder=f"{study.name}/{trial.number:04d}", tags=tags)  # fmt: skip


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
        prints, table = reports.sweep_prints(env, record)
    summary = _summarise(env, sweep.chosen, study, tracker, {**prints, "trials.csv": table})
    best = study.best()
    if best is not None and options.final and not late:  # the best of all that are wanted is looked at, once
        summary["test"] = _champion(sweep, best, tracker, signals)
    with signals.raised():
        page = reports.sweep_report(env, record, prints)
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
        "blog": images,
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
    path = reports.report_path(env, study.name)
    reports.write_report(path, page)
    log = tracker.start(_study_run(chosen, study))
    log.artifact("report.html", page)
    log.end(FINISHED, {}, {"sweeper.state": "complete"})
    return str(path)


def _champion(sweep: _Sweep, best: Trial, tracker: Tracker, signals: Signals) -> dict[str, Any]:
    """Retrain the best configuration on all training images, and evaluate it once on the test images.

    The test images take no part in anything but that one evaluation, after the last epoch.
    """
    env, study = sweep.env, sweep.study
    config = best.config.derive(split="blog", folds=0, train_images=0)
    folder = f"{study.name}/champion-{best.number:04d}"
    result = _recorded_test(env, folder, study.uid) or _retrain(sweep, best, config, folder, tracker, signals)
    if isinstance(tracker, MlflowTracker) and not tracker.uploader.registered(env.journal / folder):
        with signals.raised():  # it can be done again
            _register(sweep, tracker, config, folder)
    return result


def _retrain(
    sweep: _Sweep, best: Trial, config: RunConfig, folder: str, tracker: Tracker, signals: Signals
) -> dict[str, Any]:
    env, chosen, study = sweep.env, sweep.chosen, sweep.study
    everything = SharedSplits([splits.load_test(config, chosen.folder)])
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
    log.artifact("evaluation/errors.png", reports.errors_picture(champion.mistakes))
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
        weights = tracker.uploader.file(env.journal / folder, WEIGHTS)
        return call(save_model, config, weights, sweep.images[0].train[:2], path, described)

    try:
        number = tracker.uploader.register(env.journal / folder, save, name, "champion")
    except Exception as error:  # noqa: BLE001 - MLflow's own, or torch's where it cannot export the network
        env.warn(f"the champion is not registered yet ({reason_of(error)}); the same command tries again")
        return
    env.say(f"registered model {name!r}, version {number}, alias champion")
