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

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, Environment
from sweeper.core.errors import Interrupted, OutOfTime, StudyIncomplete, UsageError
from sweeper.core.experiments import experiment
from sweeper.core.text import counted, duration
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import check_batch, load
from sweeper.engine.choice import Built, build, check, prepare
from sweeper.replication.article import Reproduction
from sweeper.replication.plan import Options, Planned, cost, forecast, make_plan
from sweeper.replication.report_record import record_report
from sweeper.replication.runs import DIVERGED, read_runs, summarise
from sweeper.sweep.choose import Chosen, choose
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.folder import held, orders
from sweeper.sweep.networks import check_networks, code_of
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed, View
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import RunInfo, Tracker

Part = tuple[str, int]  # split and number of training images
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
    check_networks([*{run.arm: run.config for run in runs}.values()], chosen.source.spec)
    images = _images(chosen, runs)
    for run in runs:
        check_batch(run.config, images[_part(run.config)][0])
    check(options.engine, runs[0].config)
    prepare(options.engine)
    folder = options.of.folder
    with held(env.journal / folder):
        runs = make_plan(env, chosen, options)
        _announce(env, runs)
        try:
            with Signals() as signals, tracking(env, signals) as tracker:
                tracker.reconcile(folder)
                tracker.catch_up(folder)
                sources = _train(Work(env, chosen, options, runs, images, tracker, signals))
                with signals.raised():
                    record_report(env, options.of, tracker)
        except Interrupted:
            env.warn("the reproduction was interrupted. Run the same command again to continue it.")
            raise
    return _result(env, options, runs, sources)


@dataclass(frozen=True)
class Work:
    """A plan, and everything needed to train it."""

    env: Environment
    chosen: Chosen
    options: Options
    runs: Sequence[Planned]
    images: Mapping[Part, SharedSplits]
    tracker: Tracker
    signals: Signals


def _part(config: RunConfig) -> Part:
    """The images of a run: of which split, and how many to train on."""
    return config.split, config.train_images


def _images(chosen: Chosen, runs: Sequence[Planned]) -> dict[Part, SharedSplits]:
    """The images that the runs are trained and judged on."""
    configs = {_part(run.config): run.config for run in runs}
    return {part: SharedSplits(load(config, chosen.source)) for part, config in configs.items()}


def record_only(env: Environment, of: Reproduction) -> None:
    """Record the report of the recorded runs, without training.

    Raises:
        StudyConflict: another command is training; it records the report at its end.
    """
    folder = of.folder
    with held(env.journal / folder), Signals() as signals, tracking(env, signals) as tracker:
        tracker.reconcile(folder)
        tracker.catch_up(folder)
        with signals.raised():
            record_report(env, of, tracker)


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


def _train(work: Work) -> list[Listed]:
    """Train the missing runs, those with the same images together, and return what became of them.

    Raises:
        StudyIncomplete: too many runs failed.
    """
    runs, seconds = work.runs, work.options.seconds
    missing = [number for number, run in enumerate(runs) if run.state is None]
    progress = ArmProgress(
        target=len(runs),
        unit="run",
        finished=len(runs) - len(missing),
        at_start=len(runs) - len(missing),
        pruned=sum(run.state == DIVERGED for run in runs),
        costs={number: cost(runs[number].config, work.chosen.source.spec) for number in missing},
        names={number: run.name for number, run in enumerate(runs)},
    )
    view = make_view(progress, work.env)
    deadline = None if seconds is None else time.monotonic() + seconds
    sources: list[Listed] = []
    try:
        with contextlib.suppress(OutOfTime):
            for part in dict.fromkeys(_part(runs[number].config) for number in missing):
                alike = [number for number in missing if _part(runs[number].config) == part]
                sources.append(Listed(Trial(number, runs[number].config) for number in alike))
                with _engine(work, part, alike) as built:
                    driver = _driver(work, part, sources[-1], built, view, deadline)
                    driver.run(len(alike))
    finally:
        view.close()
    return sources


def _driver(
    work: Work, part: Part, source: Listed, built: Built, view: View, deadline: float | None
) -> Driver:  # fmt: skip
    """The driver of the runs of `source`, which have the same images."""

    def describe(trial: Trial) -> RunInfo:
        chosen = replace(work.chosen, code=code_of(trial.config))
        info = describe_run(
            chosen, trial.config, work.images[part], kind="run", threads=built.threads, engine=built.name
        )
        return _arm_info(work.runs[trial.number], work.options.of, info)

    given = partial(orders, work.env.journal / work.options.of.folder)
    return Driver(source, built.engine, work.tracker, describe, view, deadline=deadline, signals=work.signals,
                  orders=given)  # fmt: skip


@contextlib.contextmanager
def _engine(work: Work, part: Part, numbers: Sequence[int]) -> Iterator[Built]:
    """The engine for some runs with the same images, closed at the end of the block."""
    config, count = work.runs[numbers[0]].config, len(numbers)
    built = build(work.options.engine, config, work.images[part], count, few=count, warn=work.env.warn)
    try:
        yield built
    finally:
        built.engine.close()


def run_name(arm: str, seed: int) -> str:
    """The name of a run in MLflow, cut to what its table shows."""
    end = f" s{seed}"
    return arm[: NAME_LENGTH - len(end)] + end


def _arm_info(run: Planned, of: Reproduction, info: RunInfo) -> RunInfo:
    tags = {
        "sweeper.article": of.article.name,
        "sweeper.protocol": of.name,
        "sweeper.arm": run.arm,
        "sweeper.seed": str(run.config.seed),
        "mlflow.source.name": "sweeper reproduce",
    }
    words = f"Arm **{run.arm}** ({of.arm(run.arm).title}) of {of.article.name}, protocol {of.name}. "
    return replace(
        info, key=run.key, name=run_name(run.arm, run.config.seed), folder=run.folder,
        tags={**info.tags, **tags}, description=words + info.description,
    )  # fmt: skip


def _result(env: Environment, options: Options, runs: Sequence[Planned], sources: Sequence[Listed]) -> dict[str, Any]:
    arms = {run.arm for run in runs}
    found = {arm: of_arm for arm, of_arm in read_runs(env.journal, options.of).items() if arm in arms}
    recorded = sum(run.state is not None for run in runs)
    added = sum(source.finished() for source in sources)
    return {
        "article": options.of.article.name,
        "protocol": options.of.name,
        "runs": len(runs),
        "recorded": recorded + added,
        "added": added,
        "failed": {runs[number].name: reason for source in sources for number, reason in source.failed.items()},
        "arms": [summarise(arm, of_arm)._asdict() for arm, of_arm in found.items()],
        "journal": str(env.journal / options.of.folder),
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
    protocol = options.of.protocol
    seconds, source = forecast(env, runs, chosen.source.spec)
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}
    recorded = sum(run.state is not None for run in runs)
    env.say(f"protocol {protocol.name}: {protocol.title}")
    for arm, of_arm in by_arm.items():
        done = sum(run.state is not None for run in of_arm)
        epochs, title = of_arm[0].config.epochs, options.of.arm(arm).title
        env.say(f"{arm:<17}  {done}/{len(of_arm)} seeds recorded  {epochs:>2} epochs  {title}")
    _announce(env, runs)
    left = "" if seconds is None else f"about {duration(seconds)} "
    env.say(f"{len(by_arm)} arms, {counted(len(runs), 'run')}, {len(runs) - recorded} to train: {left}({source})")
    return {
        "article": options.of.article.name,
        "protocol": protocol.name,
        "runs": len(runs),
        "recorded": recorded,
        "seconds": seconds,
        "plan": [{"arm": run.arm, "seed": run.config.seed, "state": run.state} for run in runs],
        "options": {name: value for name, value in vars(options).items() if name != "of"}
        | {"engine": asdict(options.engine)},
    }
