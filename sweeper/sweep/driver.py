"""The driver: ask for trials, submit them, record and report their epochs, prune them, and report their outcomes.

    ask                 submit                  EpochResult              record, report, tell
    source ──▶ config ──▶ engine ══▶ training ═══════════════▶ driver ──▶ tracker, source
      ▲                                                         │
      └──────────────────── prune = close the training ─────────┘

The order makes a crash harmless. A trial starts in the study, with its parameters, before anything else knows of it.
Its outcome is in the journal before it is in the study. The next driver takes trials that are RUNNING in the study
from the journal if they have finished there, and trains the others again with the same parameters. So the number of
finished trials is exact. Trials that begin or end in the same pass are written together.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, NamedTuple

from sweeper.core.errors import (
    Diverged,
    Interrupted,
    Stopped,
    StudyIncomplete,
    SweeperError,
    TrainingError,
    Transient,
    UsageError,
)
from sweeper.core.metric import METRICS
from sweeper.core.results import EpochResult, TrainResult
from sweeper.core.trial import Trial
from sweeper.engine.base import Engine, Event
from sweeper.study.control import PAUSE, STOP, Orders
from sweeper.sweep.reasons import details_of, not_finite, out_of_time, reason_tags, too_bad
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Source, View
from sweeper.tracking.base import FAILED, FINISHED, KILLED, Recorded, RunInfo, RunLog, Tracker
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.reading import WEIGHTS

RETRIES: Final = 2  # with the same parameters, after a worker died or memory ran out
TICK_SECONDS: Final = 0.5
ASKING_SECONDS: Final = 2.0  # how long running trials wait while others start
MOST_DROPPED: Final = 64  # trials that end together without being trained; each has an open file until it is written
LOOK_SECONDS: Final = 1.0  # between two looks at the orders
PAUSE_SECONDS: Final = 600.0  # after which a pause gives the memory of workers back
SAME_ERROR_FROM_THE_START: Final = 3


@dataclass
class _Running:
    """A trial that an engine is training."""

    trial: Trial
    log: RunLog
    attempt: int = 1
    last: EpochResult | None = None


class Known(NamedTuple):
    """A trial that has ended in the journal. An earlier driver was killed before its source knew."""

    trial: Trial
    record: Recorded

    @property
    def outcome(self) -> str:
        """Complete or pruned."""
        return self.record.tags.get("sweeper.state", "complete")


@dataclass
class Driver:
    """Runs the trials of one source on one engine until a number of them are finished."""

    source: Source
    engine: Engine
    tracker: Tracker
    describe: Callable[[Trial], RunInfo]  # makes the record of a trial that a tracker starts from
    view: View
    _: KW_ONLY
    keep_results: bool = False  # keep and return the result of each trial
    deadline: float | None = None  # the value of `time.monotonic()` after which no trial is asked for
    retries: int = RETRIES  # with the same parameters, after a worker died or memory ran out
    signals: Signals = field(default_factory=Signals)  # those of the whole command, if the driver is a part of one
    diverged: str = FINISHED  # the status of a run that diverged, which in a search is a result
    orders: Callable[[], Orders] = Orders  # orders to this driver

    def __post_init__(self) -> None:
        self._target = 0
        self._exhausted = False
        self._looked = -math.inf  # when orders were read
        self._paused: float | None = None  # since when
        self._running: dict[int, _Running] = {}
        self._errors: list[str] = []
        self._results: dict[int, TrainResult] = {}

    def run(self, target: int) -> dict[int, TrainResult]:
        """Finish exactly `target` trials, counting those that were finished before, or all that the source has.

        Trials that an earlier driver left running come first. Those beyond `target` are ended as failed.

        Returns:
            The results that were kept, by the number of the trial.

        Raises:
            StudyIncomplete: too many trials failed.
            OutOfTime: the deadline passed.
            UsageError: no trial can be trained with a configuration.
            Interrupted: SIGINT or SIGTERM came; the running trials can be continued.
            Stopped: `sweeper stop` came; the running trials can be continued.
        """
        self._target = target
        with self.signals, self.source.together():
            try:
                self._run(list(self.source.unfinished()))
            except BaseException as error:
                self._abandon(error)
                raise
        return self._results

    def _run(self, waiting: list[Trial]) -> None:
        while True:
            self.signals.check()
            self.tracker.check()
            self._obey(waiting)
            if self._paused is not None:
                with self.signals.raised():
                    time.sleep(TICK_SECONDS)
                self.view.tick()
                continue
            trials, known = self._ask(waiting)
            if trials or known:
                self._begin(trials, known)
            if not self._running and not self._wants_more():  # else a worker is closing a run
                self.signals.check()
                break
            with self.signals.raised() if self.engine.interruptible else contextlib.nullcontext():
                events = self.engine.wait(TICK_SECONDS)
            with self._written():
                for event in events:
                    self._handle(event)
            self.view.tick()
        if self.source.finished() < self._target and not self._exhausted:
            raise out_of_time(self.source.finished(), self._target)
        for start in range(0, len(waiting), MOST_DROPPED):
            with self._written():
                for trial in waiting[start : start + MOST_DROPPED]:
                    self._drop(trial)

    def _obey(self, waiting: list[Trial]) -> None:
        """Follow the orders to this driver. Trials that a long pause ends are put into `waiting`.

        Raises:
            Stopped: it was ordered to stop.
        """
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        orders = self.orders()
        if orders.wanted == STOP:
            raise Stopped("stopped by sweeper stop. Run the same command again to continue.")
        if orders.workers and orders.workers != self.engine.slots:
            self.engine.resize(orders.workers)
            self.view.say(f"workers: {self.engine.slots} at a time")
        if skipped := orders.skipped & self._running.keys():
            with self._written():
                for number in skipped:
                    self._skip(self._running[number])
        self._pause(orders.wanted == PAUSE, waiting)

    def _pause(self, pause: bool, waiting: list[Trial]) -> None:
        """Pause or resume, as ordered; after a long pause, end the running trials, to train them again."""
        if not pause:
            if self._paused is not None:
                self.view.say("resumed")
            self._paused = None
        elif self._paused is None:
            self.engine.hold()
            self._paused = time.monotonic()
            self.view.say("paused; continue with sweeper resume")
        elif self._running and time.monotonic() > self._paused + PAUSE_SECONDS:
            waiting[:0] = [run.trial for run in self._running.values()]
            self.engine.release()
            self._kill_runs(f"paused for more than {PAUSE_SECONDS / 60:.0f} minutes")
            self.view.say("paused for long: freed the memory of the running trials, which will start over on resume")

    def _skip(self, run: _Running) -> None:
        self.engine.cancel(run.trial.number)
        reason = "skipped by sweeper skip"
        run.log.end(KILLED, {}, {"sweeper.state": "skipped", "sweeper.reason": reason})
        self.source.skip(run.trial.number, reason)
        self._over(run, "skipped", None)

    def _ask(self, waiting: list[Trial]) -> tuple[list[Trial], list[Known]]:
        """Ask for as many trials as the engine has room for, those in `waiting` first.

        A trial whose outcome is known takes no room. Report it to the source here, so that the next ask knows it.

        Returns:
            The trials to train, and those whose outcome is known.
        """
        trials: list[Trial] = []
        known: list[Known] = []
        until = time.monotonic() + ASKING_SECONDS
        while self._has_room(trials) and time.monotonic() < until:
            trial = waiting.pop(0) if waiting else self.source.ask()
            if trial is None:
                self._exhausted = True
                break
            if record := self.tracker.recorded(self.describe(trial)):
                known.append(Known(trial, record))
                self._tell(known[-1])
            else:
                trials.append(trial)
        return trials, known

    def _has_room(self, begun: Sequence[Trial]) -> bool:
        return self.engine.free() > len(begun) and self._wants_more(len(begun))

    def _wants_more(self, begun: int = 0) -> bool:
        """Return True if more trials are needed than are running or are about to start (`begun`)."""
        if self._exhausted or (self.deadline is not None and time.monotonic() > self.deadline):
            return False
        return self.source.finished() + len(self._running) + begun < self._target

    def _tell(self, known: Known) -> None:
        number, tags = known.trial.number, known.record.tags
        for epoch in known.record.epochs:
            self.source.report(number, epoch.epoch, self.source.metric.of(epoch))
        if known.outcome == "complete":
            self.source.complete(number, known.record.final)
        else:
            self.source.prune(number, tags["sweeper.reason"])

    def _begin(self, trials: Sequence[Trial], known: Sequence[Known]) -> None:
        """Begin trials in the study, then in the journal, then in the engine. Those that are known end here."""
        self.source.begin()
        with self.tracker.together():
            runs = [self._start(trial) for trial in trials]
        self.source.settle()
        for run in runs:
            self._submit(run)
        for each in known:
            self.view.started(each.trial)
            self.view.ended(each.trial, each.outcome, each.record.final.get(self.source.metric.final))

    def _start(self, trial: Trial, attempt: int = 1) -> _Running:
        log = self.tracker.start(self.describe(trial))
        log.artifact("config.json", trial.config.model_dump_json(indent=2).encode())
        run = self._running[trial.number] = _Running(trial, log, attempt)
        return run

    def _submit(self, run: _Running) -> None:
        self.view.started(run.trial)
        self.engine.submit(run.trial.number, run.trial.config)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """At the end of the block, write what it recorded and reported: to the journal, then to the study."""
        stopped = None
        try:
            with self.tracker.together():
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - what came before it is recorded and reported anyway
                    stopped = error
            self.source.settle()
        except Exception as error:
            if stopped is None:
                raise
            raise stopped from error
        if stopped:
            raise stopped

    def _drop(self, trial: Trial) -> None:
        """End a trial that an earlier driver left running and that is no longer wanted."""
        reason = f"left running by an earlier driver; the study has its {self._target} trials without it"
        log = self.tracker.start(self.describe(trial))
        log.end(KILLED, {}, {"sweeper.state": "dropped", "sweeper.reason": reason})
        self.source.fail(trial.number, reason)

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
            case Transient() as error if run.attempt <= self.retries:
                run.log.end(FAILED, {}, {"sweeper.state": "lost", **reason_tags(error)})
                self.view.ended(run.trial, "lost", None, str(error))
                self._submit(self._start(run.trial, run.attempt + 1))
            case Diverged() as error:
                self._prune(run, str(error), self.diverged)
            case error:
                self._fail(run, error)

    def _epoch(self, run: _Running, result: EpochResult) -> None:
        metrics = epoch_metrics(result)
        if wrong := not_finite(metrics):
            self.engine.cancel(run.trial.number)
            self._prune(run, f"epoch {result.epoch}: {wrong}", self.diverged)
            return
        run.last = result
        prune = self.source.report(run.trial.number, result.epoch, self.source.metric.of(result))
        prune = prune and result.epoch < run.trial.config.epochs
        if prune:
            self.engine.cancel(run.trial.number)
        run.log.epoch(result.epoch, metrics)
        self.view.epoch(run.trial, result)
        if prune:
            self._prune(run, too_bad(self.source.metric, result.epoch))

    def _complete(self, run: _Running, result: TrainResult) -> None:
        final = result.metrics()
        if wrong := not_finite(final):
            self._prune(run, wrong, self.diverged)
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
        run.log.end(FINISHED, final, tags)
        self.source.complete(run.trial.number, final)
        if self.keep_results:
            self._results[run.trial.number] = result
        self._over(run, "complete", final[self.source.metric.final])

    def _prune(self, run: _Running, reason: str, status: str = FINISHED) -> None:
        metrics = {each.final: each.of(run.last) for each in METRICS.values()} if run.last else {}
        state = "pruned" if status == FINISHED else "failed"
        run.log.end(status, metrics, {"sweeper.state": state, "sweeper.reason": reason})
        self.source.prune(run.trial.number, reason)
        self._over(run, "pruned", metrics.get(self.source.metric.final))

    def _fail(self, run: _Running, error: TrainingError) -> None:
        self._end_failed(run, error)
        self._errors.append(str(error))
        alike = len({re.sub(r"\d+", "#", text) for text in self._errors}) == 1 and not self.source.finished()
        if alike and len(self._errors) >= SAME_ERROR_FROM_THE_START:
            raise StudyIncomplete(f"the first {len(self._errors)} trials failed with the same error: {error}")
        if len(self._errors) > max(3, self._target // 10):
            raise StudyIncomplete(f"{len(self._errors)} trials failed, which is too many. Last error: {error}")

    def _end_failed(self, run: _Running, error: TrainingError | UsageError) -> None:
        run.log.end(FAILED, {}, {"sweeper.state": "failed", **reason_tags(error)})
        self._over(run, "failed", None)
        self.source.fail(run.trial.number, str(error), details_of(error))

    def _over(self, run: _Running, outcome: str, value: float | None) -> None:
        del self._running[run.trial.number]
        self.view.ended(run.trial, outcome, value)

    def _abandon(self, error: BaseException) -> None:
        """End the running trials in the journal; in the study they stay RUNNING, to be continued."""
        self.engine.close()
        reason = (
            f"the driver stopped: {error}" if isinstance(error, SweeperError | Interrupted) else "the driver failed"
        )
        self._kill_runs(reason)

    def _kill_runs(self, reason: str) -> None:
        """End the running trials in the journal."""
        for run in self._running.values():
            run.log.end(KILLED, {}, {"sweeper.state": "killed", "sweeper.reason": reason})
        for run in self._running.values():
            with contextlib.suppress(OSError):  # a stdout that takes no more may be what stopped the driver
                self.view.ended(run.trial, "killed", None)
        self._running.clear()
