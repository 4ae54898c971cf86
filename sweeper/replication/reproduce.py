"""The reproduction: train every arm of the article with several seeds, each run once.

The journal is the only state. After an interruption, the same command trains the missing runs. A run that failed or
was killed is trained again; a run that diverged is a result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

from sweeper.core.environment import NONE, Environment
from sweeper.core.errors import Interrupted, OutOfTime, StudyIncomplete, UsageError
from sweeper.core.experiments import experiment
from sweeper.core.text import counted, duration
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import check_batch, load
from sweeper.engine.choice import Built, build, check, prepare
from sweeper.replication.arms import ARMS, PROTOCOLS, Protocol, ProtocolName
from sweeper.replication.plan import Options, Planned, cost, forecast, make_plan
from sweeper.replication.report_record import record_report
from sweeper.replication.runs import DIVERGED, read_runs, summarise
from sweeper.sweep.choose import Chosen, choose
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.folder import held, orders
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import RunInfo, Tracker

NAME_LENGTH: Final = 18  # MLflow shows no more of a run's name


@dataclass
class ArmProgress(Progress):
    """Progress over runs of unequal length: each run weighs what it costs."""

    costs: Mapping[int, float] = field(default_factory=dict)  # of the runs that were missing at the start
    names: Mapping[int, str] = field(default_factory=dict)
    pruned_as: str = DIVERGED  # a reproduction prunes nothing

    def __post_init__(self) -> None:
        self._left = dict(self.costs)

    def label(self, trial: Trial) -> str:
        """Arm and seed."""
        return self.names[trial.number]

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """Drop the cost of a finished run."""
        super().ended(trial, outcome, value)
        if outcome != "lost":  # a lost run is tried again at once
            self._left.pop(trial.number, None)

    def seconds_left(self) -> float | None:
        """Expected time to the last run, from the pace so far; None before there is one."""
        parts = [
            self.costs[number] * line.last.epoch / line.trial.config.epochs
            for number, line in self.running.items()
            if line.last
        ]
        left = sum(self._left.values()) - sum(parts)
        done = sum(self.costs.values()) - left
        return None if done <= 0 else max(0.0, left * self.elapsed() / done)


# --- running it --------------------------------------------------------------------------------------------


def reproduce(env: Environment, chosen: Chosen, options: Options) -> dict[str, Any]:
    """Train the runs that are not recorded yet, then record the report.

    The report is recorded even if no run is missing: an earlier command may have been stopped before it had.

    Returns:
        The JSON that `--json` prints: counts, the failed runs with their reasons, and a summary of each arm. Fewer
        runs are recorded than were asked for if some failed, or if the time in `options` was over.

    Raises:
        UsageError, StudyConflict: an option is wrong, or another command trains the same; nothing was created.
        StudyIncomplete: too many runs failed.
    """
    if env.tracking_uri == NONE:
        raise UsageError("--tracking-uri none: a reproduction needs recorded runs. Use --tracking-uri offline.")
    runs = make_plan(env, chosen, options)
    images = SharedSplits(load(runs[0].config, chosen.source))
    for run in runs:
        check_batch(run.config, images[0])
    check(options.engine, runs[0].config)
    prepare(options.engine)
    with held(env.journal / PROTOCOLS[options.protocol].folder):
        runs = make_plan(env, chosen, options)
        _announce(env, runs)
        missing = [Trial(number, run.config) for number, run in enumerate(runs) if run.state is None]
        source = Listed(missing, finished=len(runs) - len(missing))
        try:
            with Signals() as signals, _engine(env, options, runs, images) as built, tracking(env, signals) as tracker:
                tracker.reconcile(PROTOCOLS[options.protocol].folder)
                tracker.catch_up(PROTOCOLS[options.protocol].folder)
                if built:
                    _train(env, chosen, options, runs, source, tracker, images, signals, built)
                with signals.raised():
                    record_report(env, options.protocol, tracker)
        except Interrupted:
            env.warn("the reproduction was interrupted. Run the same command again to continue it.")
            raise
    return _result(env, options, runs, source)


def record_only(env: Environment, protocol: ProtocolName) -> None:
    """Record the report of the recorded runs, without training.

    Raises:
        StudyConflict: another command is training; it records the report at its end.
    """
    folder = PROTOCOLS[protocol].folder
    with held(env.journal / folder), Signals() as signals, tracking(env, signals) as tracker:
        tracker.reconcile(folder)
        tracker.catch_up(folder)
        with signals.raised():
            record_report(env, protocol, tracker)


def choose_machine(env: Environment, dataset: str, device: str, precision: str) -> Chosen:
    """Data set, device and precision for all arms.

    Raises:
        ConfigError, DataError: a value is wrong, or the data set is missing.
    """
    return choose(env, experiment(1), dataset, device, precision)


def _announce(env: Environment, runs: Sequence[Planned]) -> None:
    recorded = sum(run.state is not None for run in runs)
    if recorded:
        env.say(f"{recorded} of {counted(len(runs), 'run')} are recorded already")
    if aside := sum(run.set_aside for run in runs):
        env.warn(f"{counted(aside, 'recorded run')} of another configuration set aside in the journal; training again")


@contextlib.contextmanager
def _engine(
    env: Environment, options: Options, runs: Sequence[Planned], images: SharedSplits
) -> Iterator[Built | None]:
    """The engine for the missing runs, closed at the end of the block; None if no run is missing."""
    missing = [run.config for run in runs if run.state is None]
    if not missing:
        yield None
        return
    built = build(options.engine, missing[0], images, len(missing), few=len(missing), warn=env.warn)
    try:
        yield built
    finally:
        built.engine.close()


def _train(
    env: Environment, chosen: Chosen, options: Options, runs: Sequence[Planned], source: Listed, tracker: Tracker,
    images: SharedSplits, signals: Signals, built: Built,
) -> None:  # fmt: skip
    missing = [number for number, run in enumerate(runs) if run.state is None]
    progress = ArmProgress(
        target=len(runs),
        unit="run",
        finished=source.finished(),
        at_start=source.finished(),
        pruned=sum(run.state == DIVERGED for run in runs),
        costs={number: cost(runs[number].config, chosen.source.spec) for number in missing},
        names={number: run.name for number, run in enumerate(runs)},
    )
    view = make_view(progress, env)

    def describe(trial: Trial) -> RunInfo:
        info = describe_run(chosen, trial.config, images, kind="run", threads=built.threads, engine=built.name)
        return _arm_info(runs[trial.number], PROTOCOLS[options.protocol], info)

    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    try:
        with contextlib.suppress(OutOfTime):
            Driver(source, built.engine, tracker, describe, view, deadline=deadline, signals=signals,
                   orders=partial(orders, env.journal / PROTOCOLS[options.protocol].folder)).run(len(runs))  # fmt: skip
    finally:
        view.close()


def run_name(arm: str, seed: int) -> str:
    """The name of a run in MLflow, cut to what its table shows."""
    end = f" s{seed}"
    return arm[: NAME_LENGTH - len(end)] + end


def _arm_info(run: Planned, protocol: Protocol, info: RunInfo) -> RunInfo:
    tags = {
        "sweeper.protocol": protocol.name,
        "sweeper.arm": run.arm,
        "sweeper.seed": str(run.config.seed),
        "mlflow.source.name": "sweeper reproduce",
    }
    words = f"Arm **{run.arm}** ({ARMS[run.arm].title}) of the reproduction, protocol {protocol.name}. "
    return replace(
        info, key=run.key, name=run_name(run.arm, run.config.seed), folder=run.folder,
        tags={**info.tags, **tags}, description=words + info.description,
    )  # fmt: skip


def _result(env: Environment, options: Options, runs: Sequence[Planned], source: Listed) -> dict[str, Any]:
    arms = {run.arm for run in runs}
    found = {arm: of_arm for arm, of_arm in read_runs(env.journal, options.protocol).items() if arm in arms}
    recorded = sum(run.state is not None for run in runs)
    return {
        "protocol": options.protocol,
        "runs": len(runs),
        "recorded": source.finished(),
        "added": source.finished() - recorded,
        "failed": {runs[number].name: reason for number, reason in source.failed.items()},
        "arms": [summarise(arm, of_arm)._asdict() for arm, of_arm in found.items()],
        "journal": str(env.journal / PROTOCOLS[options.protocol].folder),
    }


def check_failed(result: Mapping[str, Any]) -> None:
    """Fail if runs failed.

    Raises:
        StudyIncomplete: one line that names the first three failed runs and their reasons.
    """
    if failed := result["failed"]:
        shown = "; ".join(f"{run} ({reason[:120]})" for run, reason in list(failed.items())[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise StudyIncomplete(
            f"{len(failed)} of {result['runs']} runs failed: {shown}{more}. Run the same command again to retry them."
        )


# --- dry run -------------------------------------------------------------------------------------------------


def dry_run(env: Environment, chosen: Chosen, options: Options) -> dict[str, Any]:
    """Report what `reproduce` would train, and return the JSON that `--json` prints.

    Raises:
        UsageError, StudyConflict: `reproduce` would raise it.
    """
    runs = make_plan(env, chosen, options)
    protocol = PROTOCOLS[options.protocol]
    seconds, source = forecast(env, runs, chosen.source.spec)
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}
    recorded = sum(run.state is not None for run in runs)
    env.say(f"protocol {protocol.name}: {protocol.title}")
    for arm, of_arm in by_arm.items():
        done = sum(run.state is not None for run in of_arm)
        env.say(
            f"{arm:<17}  {done}/{len(of_arm)} seeds recorded  {of_arm[0].config.epochs:>2} epochs  {ARMS[arm].title}"
        )
    _announce(env, runs)
    left = "" if seconds is None else f"about {duration(seconds)} "
    env.say(f"{len(by_arm)} arms, {counted(len(runs), 'run')}, {len(runs) - recorded} to train: {left}({source})")
    return {
        "protocol": protocol.name,
        "runs": len(runs),
        "recorded": recorded,
        "seconds": seconds,
        "plan": [{"arm": run.arm, "seed": run.config.seed, "state": run.state} for run in runs],
        "options": asdict(options),
    }
