"""Rules that choose the best configuration of a sweep, and how their choice is judged by the truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.search_model import expected
from benchmarks.search_responses import response
from benchmarks.search_sweeps import BUDGET, FINALISTS, SEARCH, SEEDS, SPACE, Tried, draws
from sweeper.core.metric import ACCURACY
from sweeper.study.evidence import standings

HIGHEST: Final = "highest of 65"
PRODUCT: Final = "5 finalists x 3"
BY_MODEL: Final = "3 x 2, all by the model"
BASELINE: Final = ("plain Optuna", HIGHEST)
COMPARED: Final = ("plain Optuna", "tpe", "gp")  # samplers whose rules are all shown
SHOWN: Final = (HIGHEST, PRODUCT, BY_MODEL)  # rules that are shown of every sampler


class Judged(NamedTuple):
    """A choice: its regret, and what was reported of it less its true mean, in points."""

    regret: float
    curse: float


def judge(name: str, params: Mapping[str, Any], reported: float) -> Judged:
    """Judge a choice by the truth."""
    truth = response(name)
    true = truth.truth(params)
    return Judged(truth.optimum - true, reported - true)


def highest(name: str, tried: Tried, repetition: int) -> Judged:
    """Choose the configuration of the highest single value."""
    del repetition
    params, value = max(tried, key=lambda each: each[1])
    return judge(name, params, value)


def finalists(name: str, tried: Tried, repetition: int, count: int, seeds: int, by_model: bool = False) -> Judged:
    """Search with what `count` finalists of `seeds` fresh seeds leave; choose by fresh means, report it shrunken."""
    searched = tried[: BUDGET - count * seeds]
    chosen = (_by_model if by_model else _by_standing)(searched)[:count]
    fresh = {str(i): values for i, values in enumerate(_fresh(name, chosen, repetition, seeds))}
    first = standings(fresh, ACCURACY)[0]
    return judge(name, chosen[int(first.key)], first.shrunken)


def modelled(name: str, tried: Tried, repetition: int, count: int, seeds: int) -> Judged:
    """Choose finalists by the model's mean; choose among them by it once it has seen their fresh seeds; report it."""
    searched = tried[: BUDGET - count * seeds]
    chosen = _by_model(searched)[:count]
    seen = zip(chosen, _fresh(name, chosen, repetition, seeds), strict=True)
    fresh = [(params, value) for params, values in seen for value in values]
    params, mean = next(each for each in expected(SPACE, searched + fresh) if each[0] in chosen)
    return judge(name, params, mean)


def raw_mean(name: str, tried: Tried, repetition: int) -> Judged:
    """Choose as `finalists` does, and report the plain mean of the fresh seeds."""
    return of_fresh_means(name, tried[:SEARCH], repetition)


def of_fresh_means(name: str, searched: Tried, repetition: int) -> Judged:
    """Choose the finalist of these trials with the highest mean of its fresh seeds, and report that mean."""
    chosen = _by_standing(searched)[:FINALISTS]
    means = [statistics.fmean(values) for values in _fresh(name, chosen, repetition, SEEDS)]
    return judge(name, chosen[int(np.argmax(means))], max(means))


def model_best(name: str, tried: Tried, repetition: int) -> Judged:
    """Choose the configuration of the highest mean in the model of all trainings."""
    del repetition
    return judge(name, *expected(SPACE, tried)[0])


def _fresh(name: str, chosen: Sequence[Mapping[str, Any]], repetition: int, seeds: int) -> list[list[float]]:
    """Train finalists with fresh seeds: the values of each."""
    luck = draws(repetition, 1, len(chosen) * seeds).reshape(len(chosen), seeds)
    return [[response(name).trained(params, float(each)) for each in luck[i]] for i, params in enumerate(chosen)]


def _by_standing(tried: Tried) -> list[dict[str, Any]]:
    """The configurations, best first by the shrunken mean."""
    values: dict[str, list[float]] = {}
    params: dict[str, dict[str, Any]] = {}
    for each, value in tried:
        key = str(sorted(each.items()))
        params[key] = each
        values.setdefault(key, []).append(value)
    return [params[standing.key] for standing in standings(values, ACCURACY)]


def _by_model(tried: Tried) -> list[dict[str, Any]]:
    """The configurations, best first by the model's mean."""
    return [params for params, _ in expected(SPACE, tried)]


RULES: Final[dict[str, Callable[[str, Tried, int], Judged]]] = {
    HIGHEST: highest,
    "1 finalist x 15": lambda *of: finalists(*of, 1, 15),
    "3 finalists x 5": lambda *of: finalists(*of, 3, 5),
    PRODUCT: lambda *of: finalists(*of, FINALISTS, SEEDS),
    "8 finalists x 2": lambda *of: finalists(*of, 8, 2),
    "15 finalists x 1": lambda *of: finalists(*of, 15, 1),
    "3 finalists x 3": lambda *of: finalists(*of, 3, 3),
    "2 finalists x 2": lambda *of: finalists(*of, 2, 2),
    "5 x 3, plain mean reported": raw_mean,
    "5 x 3, finalists by the model": lambda *of: finalists(*of, FINALISTS, SEEDS, by_model=True),
    "5 x 3, all by the model": lambda *of: modelled(*of, 5, 3),
    BY_MODEL: lambda *of: modelled(*of, 3, 2),
    "the model's best of 65": model_best,
}


class Mean(NamedTuple):
    """A mean over repetitions and its standard error."""

    mean: float
    error: float

    def show(self) -> str:
        """Format as mean ± standard error."""
        return f"{self.mean:.3f} ± {self.error:.3f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Return mean and standard error of independent values."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(statistics.fmean(values), error)


Sweeps = Mapping[str, Mapping[str, Mapping[int, Tried]]]  # by sampler, response and repetition
Outcomes = Mapping[tuple[str, str], Mapping[str, list[Judged]]]  # by sampler and rule, then response; by repetition


def outcomes(sweeps: Sweeps, compared: Collection[str] = COMPARED) -> dict[tuple[str, str], dict[str, list[Judged]]]:
    """Return what each rule chose in each sweep: every rule for the compared samplers, three of them for all."""
    found = {}
    for sampler, responses in sweeps.items():
        for rule in RULES if sampler in compared else SHOWN:
            found[sampler, rule] = {
                name: [RULES[rule](name, tried, repetition) for repetition, tried in repetitions.items()]
                for name, repetitions in responses.items()
            }
    return found
