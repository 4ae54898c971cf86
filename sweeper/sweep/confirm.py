"""Confirm: train configurations of a study again with fresh seeds, and compare their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sweeper.core.environment import Environment
from sweeper.core.errors import UsageError
from sweeper.core.intervals import limits
from sweeper.core.metric import Metric
from sweeper.core.text import counted
from sweeper.core.trial import Trial
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.choice import EngineChoice, build, check, prepare
from sweeper.study.opening import open_study
from sweeper.study.reading import read_settings
from sweeper.study.rows import Ranked, ranking
from sweeper.study.study import Study
from sweeper.sweep.choose import choose
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import RETRIES
from sweeper.sweep.finalists import Best, plan, train_finalists
from sweeper.sweep.progress import accuracy_beside, in_words
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import RunInfo
from sweeper.tracking.reading import is_another


@dataclass(frozen=True)
class Confirmation:
    """The configurations of a study to train again, and how: the `top` best, or those of `trials`."""

    study: str
    top: int
    trials: Sequence[int]
    seeds: int
    device: str
    engine: EngineChoice
    dataset: str | None = None  # where the images of the study are now, if they have moved


def confirm(env: Environment, asked: Confirmation) -> dict[str, Any]:
    """Train the configurations with fresh seeds, apart from the runs that are recorded, and rank them by their means.

    Neither the study nor the test images are touched.

    Returns:
        The JSON that `--json` prints.

    Raises:
        UsageError: there is no such study, or a trial of it is not complete.
        StudyConflict: a driver holds the study.
        StudyIncomplete: too many runs failed.
    """
    settings = read_settings(asked.study, env.storage)
    base = settings.base
    chosen = choose(env, base, asked.dataset or base.dataset, asked.device, base.precision)
    check(asked.engine, chosen.config)
    images = SharedSplits(load(settings.space.smallest_batch(chosen.config), chosen.source))
    prepare(asked.engine)
    study = open_study(asked.study, settings, env.storage, partial(is_another, env.journal / asked.study))
    try:
        ranked = _ranked(study, asked)
        wanted = plan(study, ranked, asked.seeds)
        with Signals() as signals, study.answering():
            study.forget_orders()
            built = build(asked.engine, chosen.config, images, len(wanted.runs), few=len(wanted.runs), warn=env.warn)

            def describe(trial: Trial) -> RunInfo:
                return describe_run(chosen, trial.config, images, kind="finalist", threads=built.threads,
                                    engine=built.name)  # fmt: skip

            with tracking(env, signals) as tracker:
                tracker.reconcile(study.name)
                try:
                    means = train_finalists(env, study, wanted, built, tracker, describe, signals, deadline=None,
                                            retries=RETRIES)  # fmt: skip
                finally:
                    built.engine.close()
    finally:
        study.close()
    _say(env, asked, study.metric, ranked, means)
    confirmed = [best.plain() for best in means]
    return {"study": asked.study, "metric": study.metric.name, "confirmed": confirmed}


def _ranked(study: Study, asked: Confirmation) -> list[Ranked]:
    """Return the configurations to train.

    Raises:
        UsageError: a trial is not complete, or none is.
    """
    everything = ranking(study.rows(), study.metric)
    known = {number: ranked for ranked in everything for number in ranked.trials}
    if unknown := [number for number in asked.trials if number not in known]:
        raise UsageError(
            f"trial {unknown[0]} of study {study.name!r} is not complete. List trials with sweeper status --json."
        )
    if not everything:
        raise UsageError(f"study {study.name!r}: no trial is complete yet. Run sweeper optimize first.")
    chosen = [known[number] for number in asked.trials] or everything[: asked.top]
    return list({ranked.trials: ranked for ranked in chosen}.values())


def _say(
    env: Environment, asked: Confirmation, metric: Metric, ranked: Sequence[Ranked], means: Sequence[Best]
) -> None:  # fmt: skip
    configurations = counted(len(ranked), "configuration")
    env.say(f"{configurations} of study {asked.study!r}, {counted(asked.seeds, 'fresh seed')} each:")
    for rank, best in enumerate(means, 1):
        value = f"{best.scores[metric.key]:.4f}{limits(best.low, best.high)}{accuracy_beside(metric, best.scores)}"
        env.say(f"  {rank}  {metric.label} {value}  trial {best.trial}: {in_words(best.params)}")
    if left := len(ranked) - len(means):
        env.warn(f"left out: {counted(left, 'configuration')} that diverged or failed with a fresh seed")
