"""Finalists: the best configurations of a sweep, trained again with seeds that the search did not use.

The best of many trials is partly luck. The mean of fresh seeds is not, so it chooses the champion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Final, NamedTuple

from sweeper.core.config import RunConfig, finite
from sweeper.core.environment import Environment
from sweeper.core.metric import ACCURACY, LOSS, Metric
from sweeper.core.trial import FRESH, Trial, repeat
from sweeper.engine.choice import Built
from sweeper.study.control import Orders
from sweeper.study.evidence import standings
from sweeper.study.rows import Ranked, ranking
from sweeper.study.study import Study
from sweeper.sweep.driver import Driver
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed
from sweeper.tracking.base import RunInfo, Tracker
from sweeper.tracking.reading import Ended, finished_of

FINALISTS: Final = 5  # of a sweep that has as many trials as this, or more:
FEWEST_TRIALS: Final = 20


class FinalistRun(NamedTuple):
    """One training of a finalist."""

    of: int  # the first trial that had the configuration
    seed: int  # which of the fresh seeds, from 1
    config: RunConfig
    key: str  # of the run in the journal


class Plan(NamedTuple):
    """The finalists and their runs: every configuration with each fresh seed, one seed at a time."""

    ranked: Sequence[Ranked]
    runs: Sequence[FinalistRun]


class Best(NamedTuple):
    """A configuration with its evidence: from fresh seeds if it is a finalist, else from the search."""

    trial: int  # the first that had it
    params: Mapping[str, Any]
    scores: Mapping[str, float]  # by key: of the study's metric the shrunken mean over its seeds, of others the mean
    seeds: int
    low: float  # of the 95 % interval of the study's metric; NaN if there are too few seeds
    high: float

    def numbers(self) -> dict[str, float]:
        """Return everything but the parameters, by name."""
        return {"trial": self.trial, **self.scores, "seeds": self.seeds, "low": self.low, "high": self.high}

    def plain(self) -> dict[str, Any]:
        """Return the values for JSON; an unknown interval is left out."""
        return {name: value for name, value in self.numbers().items() if finite(value)} | {"params": dict(self.params)}


def plan(study: Study, ranked: Sequence[Ranked], seeds: int) -> Plan:
    """Return the runs that train each of the configurations with each of `seeds` fresh seeds."""
    firsts = [(each.trials[0], study.settings.configuration(each.params)) for each in ranked]
    return Plan(
        ranked,
        [
            FinalistRun(of, seed, repeat(config, FRESH + seed), f"{study.uid}/finalist/{of}/{seed}")
            for seed in range(1, seeds + 1)
            for of, config in firsts
        ],
    )


def usual_finalists(env: Environment, study: Study, trials: int) -> int:
    """Return the default number of finalists.

    None if the test images were used before any finalist was trained, as 0.1.0 did: they may be used only once.
    """
    looks, finals = ([run.time for run in _finished(env, study, kind)] for kind in ("champion", "finalist"))
    decided = looks and min(looks) < min(finals, default=math.inf)
    return 0 if trials < FEWEST_TRIALS or decided else FINALISTS


def _finished(env: Environment, study: Study, kind: str) -> Iterator[Ended]:
    return finished_of(env.journal / study.name, study.uid, kind, env.warn)


def recorded_runs(env: Environment, study: Study) -> dict[str, Mapping[str, float] | None]:
    """Return the final metrics of the finalists' runs that have ended in the journal, by key; None for one that
    diverged."""
    return {
        run.key: run.metrics if run.tags.get("sweeper.state") == "complete" else None
        for run in _finished(env, study, "finalist")
    }


def train_finalists(
    env: Environment, study: Study, wanted: Plan, built: Built | None, tracker: Tracker,
    describe: Callable[[Trial], RunInfo], signals: Signals, *, deadline: float | None, retries: int,
) -> list[Best]:  # fmt: skip
    """Train the missing runs of the finalists, and return the finalists, best first.

    A finalist that diverged or failed with a seed is left out. `describe` makes the record of a run without its
    identity. The engine may be None if no run is missing.

    Raises:
        OutOfTime: the deadline passed first.
        StudyIncomplete: too many of the runs failed.
    """
    recorded = recorded_runs(env, study)
    left = [run for run in wanted.runs if run.key not in recorded]
    results = {key: result for key, result in recorded.items() if result is not None}
    if left and built:
        results |= _train(env, study, left, len(wanted.runs), built, tracker, describe, signals, deadline, retries)
    return means(wanted, results, study.metric)


def _train(
    env: Environment, study: Study, left: Sequence[FinalistRun], target: int, built: Built, tracker: Tracker,
    describe: Callable[[Trial], RunInfo], signals: Signals, deadline: float | None, retries: int,
) -> dict[str, Mapping[str, float]]:  # fmt: skip
    """Train the runs that are `left` of `target`, and return the final metrics of the complete ones, by key."""

    def named(trial: Trial) -> RunInfo:
        run, info = left[trial.number], describe(trial)
        tags = {**info.tags, "sweeper.study": study.name, "sweeper.trial": str(run.of)}
        return replace(info, key=run.key, name=f"finalist {run.of:03d} \N{MIDDLE DOT} {run.seed}",
                       folder=f"{study.name}/finalist-{run.of:04d}-{run.seed}", tags=tags)  # fmt: skip

    done = target - len(left)
    trials = [Trial(number, run.config, run.seed) for number, run in enumerate(left)]
    source = Listed(trials, finished=done, metric=study.metric)
    progress = Progress(target=target, finished=done, at_start=done, unit="finalist run", metric=study.metric)
    view = make_view(progress, env)

    def orders() -> Orders:  # without the trials to skip, whose numbers are not those of finalists' runs
        return study.orders()._replace(skipped=frozenset())

    try:
        driver = Driver(source, built.engine, tracker, named, view, deadline=deadline, retries=retries,
                        signals=signals, orders=orders)  # fmt: skip
        driver.run(target)
    finally:
        view.close()
    return {left[number].key: result for number, result in source.completed.items()}


def means(wanted: Plan, results: Mapping[str, Mapping[str, float]], metric: Metric) -> list[Best]:
    """Return the finalists of which every run is complete, the best mean of the metric first.

    The means are shrunken: the best of five plain means is still too good, by about 0.1 points of accuracy
    (docs/explanation/search.md).
    """
    finals: dict[str, list[Mapping[str, float]]] = {}
    for of in {run.of for run in wanted.runs if all(r.key in results for r in wanted.runs if r.of == run.of)}:
        finals[str(of)] = [results[run.key] for run in wanted.runs if run.of == of]
    params = {str(each.trials[0]): each.params for each in wanted.ranked}
    found = []
    for each in standings({key: [run[metric.final] for run in runs] for key, runs in finals.items()}, metric):
        scores = {other.key: fmean(run[other.final] for run in finals[each.key]) for other in (ACCURACY, LOSS)}
        scores[metric.key] = each.shrunken
        found.append(Best(int(each.key), params[each.key], scores, each.n, each.low, each.high))
    return found


def best_of_search(study: Study) -> Best | None:
    """Return the configuration with the best shrunken mean, or None if no trial is complete."""
    for params, trials, standing, scores in ranking(study.rows(), study.metric)[:1]:
        return Best(trials[0], params, scores, standing.n, standing.low, standing.high)
    return None
