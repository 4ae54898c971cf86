"""The driver: the one place that asks, submits, listens, records, prunes and tells.

    ask                 submit                  EpochResult              record, report, tell
    source ──▶ config ──▶ engine ══▶ training ═══════════════▶ drive() ──▶ tracker, source
      ▲                                                           │
      └──────────────────── prune = close the training ───────────┘

Order is what makes a crash harmless. A trial begins in the study, with its parameters, before anything
else knows of it; what becomes of it is in the journal before the study is told. Whatever is RUNNING in
the study when a driver starts is trained again with the parameters it has, so that the number of
finished trials comes out exact. A pass of the driver looks at all that has happened, and writes each of
the three once: so many trials that begin and end share the transactions and the waiting for the disk.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sweeper.core.config import finite
from sweeper.core.errors import (
    Diverged,
    Interrupted,
    OutOfTime,
    StudyIncomplete,
    SweeperError,
    TrainingError,
    Transient,
    UsageError,
)
from sweeper.core.results import EpochResult, TrainResult
from sweeper.core.trial import Trial
from sweeper.engine.base import Engine, Event
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Source, View
from sweeper.tracking.base import FAILED, FINISHED, KILLED, Recorded, RunInfo, RunLog, Tracker
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.reading import WEIGHTS

RETRIES: Final = 2  # of the same parameters, after a worker died or memory ran out
TICK_SECONDS: Final = 0.5
ASKING_SECONDS: Final = 2.0  # how long trainings that run are left alone while others begin
COPIES: Final = 64  # trials of a pass that need no training; each has an open file until the pass is written
SAME_ERROR_FROM_THE_START: Final = 3
TRACEBACK_CHARACTERS: Final = 4_000  # MLflow takes 8,000 in a tag


@dataclass
class _Running:
    """A trial that an engine is training."""

    trial: Trial
    log: RunLog
    attempt: int = 1
    last: EpochResult | None = None


@dataclass
class Outcome:
    """What a sweep came to."""

    finished: int
    results: dict[int, TrainResult] = field(default_factory=dict)


class Driver:
    """Runs the trials of one source on one engine until `target` of them are finished.

    Args:
        describe: makes the record of a trial that a tracker starts from.
        keep_results: keep the `TrainResult` of each trial in the outcome.
        deadline: `time.monotonic()` after which nothing more is asked.
        retries: how often the same parameters are tried again after a worker died or memory ran out.
        signals: those of the whole command, where the driver is a part of one.
        diverged: the status of a run whose training diverged, which is an outcome of a search.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        tracker: Tracker,
        describe: Callable[[Trial], RunInfo],
        view: View,
        *,
        keep_results: bool = False,
        deadline: float | None = None,
        retries: int = RETRIES,
        signals: Signals | None = None,
        diverged: str = FINISHED,
    ) -> None:
        self._source, self._engine, self._tracker = source, engine, tracker
        self._describe, self._view = describe, view
        self._keep_results, self._deadline, self._retries = keep_results, deadline, retries
        self._target = 0
        self._exhausted = False
        self._running: dict[int, _Running] = {}
        self._errors: list[str] = []
        self._outcome = Outcome(0)
        self._signals = signals or Signals()
        self._diverged = diverged

    def run(self, target: int) -> Outcome:
        """Finish exactly `target` trials, counting those that were finished before, or all that the source has.

        Trials that an earlier driver left running come first; those beyond `target` are ended as failed.

        Raises:
            StudyIncomplete: too many trials failed; OutOfTime: the deadline passed.
            UsageError: a configuration that no trial can be trained with.
            Interrupted: SIGINT or SIGTERM; the trials that were running can be continued.
        """
        self._target = target
        with self._signals, self._source.together():
            try:
                self._run(list(self._source.unfinished()))
            except BaseException as error:
                self._abandon(error)
                raise
        self._outcome.finished = self._source.finished()
        return self._outcome

    def _run(self, waiting: list[Trial]) -> None:
        while True:
            self._tracker.check()
            asked = self._ask(waiting)
            if asked:
                self._begin(asked)
            if not self._running and not self._wants_more():  # else a worker is closing a training
                self._signals.check()
                break
            events = self._next_events()
            with self._written():
                for event in events:
                    self._handle(event)
            self._view.tick()
        if self._source.finished() < self._target and not self._exhausted:
            raise out_of_time(self._source.finished(), self._target)
        for trials in batched(waiting, COPIES):
            with self._written():
                for trial in trials:
                    self._drop(trial)

    def _begin(self, asked: list[tuple[Trial, Recorded | None]]) -> None:
        """Start the runs of trials, once they are in the study, and then their trainings. The source has been told the
        outcome of copies already, which becomes lasting only if all of them are in the journal."""
        self._source.begin()
        with self._tracker.together():
            begun = [(self._start(trial), twin) for trial, twin in asked]
            for run, twin in begun:
                if twin is not None:
                    _copy(run, twin)
        self._source.settle()
        for trial, twin in asked:
            if twin is not None:
                del self._running[trial.number]
        for run, twin in begun:
            if twin is None:
                self._submit(run)
            else:
                self._view.started(run.trial)
                self._view.ended(run.trial, "complete", _result(twin)[0])

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """At the end of the block, what was recorded and told in it is on disk: in the journal, then in the study."""
        stopped = None
        try:
            with self._tracker.together():
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - what came before it is recorded, and told, all the same
                    stopped = error
            self._source.settle()
        except Exception as error:
            if stopped is None:
                raise
            raise stopped from error
        if stopped:
            raise stopped

    def _ask(self, waiting: list[Trial]) -> list[tuple[Trial, Recorded | None]]:
        """As many trials as there is room for, those that wait first; with what is recorded of an earlier trial of the
        same network, which is then the result of this one, and the source knows it when it is asked for the next."""
        asked: list[tuple[Trial, Recorded | None]] = []
        copied: dict[int | None, Recorded] = {}  # in this pass, and not in the journal yet
        begun = 0
        until = time.monotonic() + ASKING_SECONDS
        while self._engine.free() > begun and self._wants_more(begun) and time.monotonic() < until:
            if len(copied) == COPIES:
                break
            trial = waiting.pop(0) if waiting else self._source.ask()
            if trial is None:
                self._exhausted = True
                break
            twin = copied.get(trial.twin) or self._recorded_twin(trial)
            if twin is None:
                begun += 1
            else:
                copied[trial.number] = twin
                for epoch in twin.epochs:
                    self._source.report(trial.number, epoch.epoch, epoch.val_accuracy)
                self._source.complete(trial.number, *_result(twin))
            asked.append((trial, twin))
        return asked

    def _wants_more(self, begun: int = 0) -> bool:
        """Whether there is something to ask for, while `begun` trials are about to run."""
        if self._exhausted or (self._deadline is not None and time.monotonic() > self._deadline):
            return False
        return self._source.finished() + len(self._running) + begun < self._target

    def _drop(self, trial: Trial) -> None:
        """End a trial that an earlier driver left running and that is not wanted any more."""
        reason = f"left running by an earlier driver; the study has its {self._target} trials without it"
        log = self._tracker.start(self._describe(trial))
        log.end(KILLED, {}, {"sweeper.state": "dropped", "sweeper.reason": reason})
        self._source.fail(trial.number, reason)

    def _next_events(self) -> list[Event]:
        with self._signals.raised():
            return self._engine.wait(TICK_SECONDS)

    def _start(self, trial: Trial, attempt: int = 1) -> _Running:
        log = self._tracker.start(self._describe(trial))
        log.artifact("config.json", trial.config.model_dump_json(indent=2).encode())
        run = self._running[trial.number] = _Running(trial, log, attempt)
        return run

    def _submit(self, run: _Running) -> None:
        self._view.started(run.trial)
        self._engine.submit(run.trial.number, run.trial.config)

    def _recorded_twin(self, trial: Trial) -> Recorded | None:
        """What the journal holds of an earlier trial of the same network."""
        if trial.twin is None:
            return None
        return self._tracker.recorded(self._describe(trial._replace(number=trial.twin)))

    def _handle(self, event: Event) -> None:
        run = self._running[event.key]
        match event.what:
            case EpochResult() as result:
                self._epoch(run, result)
            case TrainResult() as result:
                self._complete(run, result)
            case UsageError() as error:
                self._end_failed(run, error)
                raise error
            case Transient() as error if run.attempt <= self._retries:
                run.log.end(FAILED, {}, {"sweeper.state": "lost", **_reasons(error)})
                self._view.ended(run.trial, "lost", None)
                self._submit(self._start(run.trial, run.attempt + 1))
            case Diverged() as error:
                self._prune(run, str(error), self._diverged)
            case error:
                self._fail(run, error)

    def _epoch(self, run: _Running, result: EpochResult) -> None:
        metrics = epoch_metrics(result)
        if wrong := _not_finite(metrics):
            self._engine.cancel(run.trial.number)
            self._prune(run, f"epoch {result.epoch}: {wrong}", self._diverged)
            return
        run.last = result
        prune = self._source.report(run.trial.number, result.epoch, result.val_accuracy)
        prune = prune and result.epoch < run.trial.config.epochs
        if prune:
            self._engine.cancel(run.trial.number)
        run.log.epoch(result.epoch, metrics)
        self._view.epoch(run.trial, result)
        if prune:
            self._prune(run, f"pruned after epoch {result.epoch}: among the worst quarter, or half, at that epoch")

    def _complete(self, run: _Running, result: TrainResult) -> None:
        if wrong := _not_finite(result.metrics()):
            self._prune(run, wrong, self._diverged)
            return
        if result.weights:
            run.log.artifact(WEIGHTS, result.weights_file())
        run.log.artifact("evaluation/confusion.csv", result.evaluation.confusion_csv())
        for name, content in (result.xray.files() if result.xray else {}).items():
            run.log.artifact(name, content)
        tags = {
            "sweeper.state": "complete",
            "sweeper.history_sha256": result.history_sha256,
            "sweeper.weights_sha256": result.weights_sha256,
        } | ({"sweeper.xray_failure": result.xray_failure} if result.xray_failure else {})
        run.log.end(FINISHED, result.metrics(), tags)
        last = result.history[-1]
        self._source.complete(run.trial.number, last.val_accuracy, last.val_loss)
        if self._keep_results:
            self._outcome.results[run.trial.number] = result
        self._over(run, "complete", last.val_accuracy)

    def _prune(self, run: _Running, reason: str, status: str = FINISHED) -> None:
        metrics = {"final/val_accuracy": run.last.val_accuracy, "final/val_loss": run.last.val_loss} if run.last else {}
        state = "pruned" if status == FINISHED else "failed"
        run.log.end(status, metrics, {"sweeper.state": state, "sweeper.reason": reason})
        self._source.prune(run.trial.number, reason)
        self._over(run, "pruned", run.last.val_accuracy if run.last else None)

    def _fail(self, run: _Running, error: TrainingError) -> None:
        self._end_failed(run, error)
        self._errors.append(str(error))
        alike = len({re.sub(r"\d+", "#", text) for text in self._errors}) == 1 and not self._source.finished()
        if alike and len(self._errors) >= SAME_ERROR_FROM_THE_START:
            raise StudyIncomplete(f"the first {len(self._errors)} trials failed alike: {error}")
        if len(self._errors) > max(3, self._target // 10):
            raise StudyIncomplete(f"{len(self._errors)} trials failed, too many to go on; the last: {error}")

    def _end_failed(self, run: _Running, error: TrainingError | UsageError) -> None:
        run.log.end(FAILED, {}, {"sweeper.state": "failed", **_reasons(error)})
        self._over(run, "failed", None)
        self._source.fail(run.trial.number, str(error), _details(error))

    def _over(self, run: _Running, outcome: str, value: float | None) -> None:
        del self._running[run.trial.number]
        self._view.ended(run.trial, outcome, value)

    def _abandon(self, error: BaseException) -> None:
        """End what runs, in the journal too; the study keeps its trials as RUNNING, to be continued."""
        self._engine.close()
        reason = (
            f"the driver stopped: {error}" if isinstance(error, SweeperError | Interrupted) else "the driver failed"
        )
        for run in self._running.values():
            run.log.end(KILLED, {}, {"sweeper.state": "killed", "sweeper.reason": reason})
        for run in self._running.values():
            with contextlib.suppress(OSError):  # a stdout that takes no more may be what stopped the driver
                self._view.ended(run.trial, "killed", None)
        self._running.clear()


def batched(trials: Sequence[Trial], size: int) -> Iterator[Sequence[Trial]]:
    """The trials in parts of at most `size`."""
    return (trials[start : start + size] for start in range(0, len(trials), size))


def out_of_time(finished: int, target: int) -> OutOfTime:
    """What a command says whose trials are not all finished at its deadline."""
    return OutOfTime(f"{finished} of {target} trials finished before --timeout")


def _not_finite(metrics: Mapping[str, float]) -> str:
    """Which metric is NaN or infinite, or an empty string; such a value is never told to anybody."""
    return next((f"{name} is {value}" for name, value in metrics.items() if not finite(value)), "")


def _copy(run: _Running, twin: Recorded) -> None:
    """Record the result of the trial's twin, which training would only repeat; times are not its own."""
    for epoch in twin.epochs:
        run.log.epoch(epoch.epoch, {k: v for k, v in epoch_metrics(epoch).items() if not k.startswith("time/")})
    run.log.end(FINISHED, twin.final, twin.tags | {"sweeper.copy_of": str(run.trial.twin)})


def _result(recorded: Recorded) -> tuple[float, float]:
    """The accuracy and the loss that a finished run came to."""
    return recorded.final["final/val_accuracy"], recorded.final["final/val_loss"]


def _details(error: TrainingError | UsageError) -> str:
    """The traceback of a training, or of a long one the end, where the error is."""
    return error.details[-TRACEBACK_CHARACTERS:] if isinstance(error, TrainingError) else ""


def _reasons(error: TrainingError | UsageError) -> dict[str, str]:
    """Why a training failed, as tags."""
    details = _details(error)
    return {"sweeper.reason": str(error)} | ({"sweeper.traceback": details} if details else {})
