"""Questions about recorded runs: a table of runs turns a question into evidence.

The words of a question state when its answer is yes. Its null hypothesis is the opposite, bounds included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from sweeper.replication.claims.measures import LOG_SECONDS, OVERFITTING, Measure, is_stable, since
from sweeper.replication.runs import ArmRun
from sweeper.replication.statistics.base import Array, Evidence, Sample
from sweeper.replication.statistics.combine import Combined
from sweeper.replication.statistics.exact import Ranks, Share
from sweeper.replication.statistics.means import Contrast, Reached
from sweeper.replication.statistics.spread import Importance, VarianceRatio

RESAMPLES: Final = 10_000


class Table:
    """The runs of each arm, or only those with seeds below `seeds`, and their measured values."""

    def __init__(self, runs: Mapping[str, Sequence[ArmRun]], seeds: int | None = None) -> None:
        most = math.inf if seeds is None else seeds
        self._runs = {arm: [run for run in of_arm if run.seed < most] for arm, of_arm in runs.items()}
        self._samples: dict[tuple[str, Measure], Sample] = {}

    def runs(self, arm: str) -> list[ArmRun]:
        """The runs of an arm, by seed."""
        return self._runs.get(arm, [])

    def by_seed(self, arm: str, measure: Measure) -> dict[int, float]:
        """The finite values of the runs, by seed."""
        values = {run.seed: measure(run) for run in self.runs(arm)}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def sample(self, arm: str, measure: Measure) -> Sample:
        """The finite values of the runs, without their seeds."""
        key = (arm, measure)
        if key not in self._samples:
            self._samples[key] = Sample(np.array([*self.by_seed(arm, measure).values()], dtype=np.float64))
        return self._samples[key]

    def samples(self, arms: Sequence[str], measure: Measure) -> tuple[tuple[Sample, ...], dict[str, int]]:
        """The values of several arms, and their numbers."""
        found = tuple(self.sample(arm, measure) for arm in arms)
        return found, dict(zip(arms, map(len, found), strict=True))


@dataclass(frozen=True, eq=False)
class Question:
    """A question about some arms, in words and as a function of a table."""

    arms: tuple[str, ...]
    words: str
    ask: Callable[[Table], Evidence]


# --- means --------------------------------------------------------------------------------------------


def contrast(
    measure: Measure, weights: Mapping[str, float], label: str, direction: int, bound: float = 0.0
) -> Question:
    """Ask if a weighted sum of the arms' means lies above (+1) or below (-1) `bound`."""

    def ask(table: Table) -> Evidence:
        samples, counts = table.samples(arms, measure)
        return Contrast(name, measure.unit, direction, bound, counts, tuple(weights.values()), samples)

    arms, name = tuple(weights), f"{measure.name}, {label}"
    return Question(arms, f"{name} {'>' if direction > 0 else '<'} {amount(bound, measure.unit)}", ask)


def above(measure: Measure, first: str, second: str = "", bound: float = 0.0) -> Question:
    """Ask if the mean of `first`, minus that of `second` if there is one, is above `bound`."""
    return _difference(measure, first, second, +1, bound)


def below(measure: Measure, first: str, second: str = "", bound: float = 0.0) -> Question:
    """Ask if the mean of `first`, minus that of `second` if there is one, is below `bound`."""
    return _difference(measure, first, second, -1, bound)


def _difference(measure: Measure, first: str, second: str, direction: int, bound: float) -> Question:
    weights = {first: 1.0} | ({second: -1.0} if second else {})
    return contrast(measure, weights, " - ".join(weights), direction, bound)


def within(measure: Measure, first: str, second: str, margin: float) -> Question:
    """Ask if two means differ by less than `margin`."""
    return between(above(measure, first, second, -margin), below(measure, first, second, margin))


def reaches(measure: Measure, arm: str, value: float, margin: float) -> Question:
    """Ask if the mean of an arm is above `value` - `margin`, and `value` not above the prediction interval."""

    def ask(table: Table) -> Evidence:
        samples, counts = table.samples([arm], measure)
        return Reached(f"{measure.name}, {arm}", measure.unit, +1, value - margin, counts, (1.0,), samples, value)

    words = (
        f"{measure.name}, {arm} > {amount(value - margin, measure.unit)}, and {amount(value, measure.unit)} "
        "not above the prediction interval of 95 % of one further run"
    )
    return Question((arm,), words, ask)


def time_ratio(first: str, second: str, direction: int, bound: float) -> Question:
    """Ask if an epoch of `first` takes more (+1) or less (-1) than `bound` times as long as one of `second`.

    Paired by seed, where all epochs of both runs had as many threads on the same hardware: the mean of the log ratios,
    by Student's t.
    """

    def ask(table: Table) -> Evidence:
        one, other = table.by_seed(first, LOG_SECONDS), table.by_seed(second, LOG_SECONDS)
        seeds = [seed for seed in _alike(table, first, second) if seed in one and seed in other]
        ratios = np.array([one[seed] - other[seed] for seed in seeds])
        counts = {first: len(ratios), second: len(ratios)}
        return Contrast(name, LOG_SECONDS.unit, direction, math.log(bound), counts, (1.0,), (Sample(ratios),))

    name = f"{LOG_SECONDS.name} with equal threads and hardware, {first} / {second}"
    return Question((first, second), f"{name} {'>' if direction > 0 else '<'} {bound:g}", ask)


def _alike(table: Table, first: str, second: str) -> list[int]:
    """The seeds that both arms trained on the same hardware with the same number of threads."""
    machines, others = ({run.seed: run.machines for run in table.runs(arm)} for arm in (first, second))
    return [seed for seed in sorted(machines.keys() & others.keys()) if len(machines[seed] | others[seed]) <= 1]


# --- shares, counts, spread -----------------------------------------------------------------------------


def share(label: str, arm: str, holds: Callable[[ArmRun], bool | None], bound: float) -> Question:
    """Ask if something holds in more than `bound` of an arm's runs; runs for which it is None are left out."""

    def ask(table: Table) -> Evidence:
        found = [held for run in table.runs(arm) if (held := holds(run)) is not None]
        return Share(f"{label}, {arm}", "share", +1, bound, {arm: len(found)}, sum(found), len(found))

    return Question((arm,), f"{label}, {arm} > {amount(bound, 'share')}", ask)


def more_often(measure: Measure, first: str, second: str) -> Question:
    """Ask if the counts of `first` are larger than those of `second`, by permutations."""

    def ask(table: Table) -> Evidence:
        samples, counts = table.samples([first, second], measure)
        return Ranks(name, measure.unit, +1, 0.0, counts, *(x.values.round().astype(np.int64) for x in samples))

    name = f"{measure.name}, {first} - {second}"
    return Question((first, second), f"{name} > 0", ask)


def higher_stable_rate(first: Sequence[str], second: Sequence[str], label: str) -> Question:
    """Ask if the highest stable learning rate on a grid, in its steps, is higher, by permutations.

    `first` and `second` are the arms of the grid, the lowest rate first.
    """

    def ask(table: Table) -> Evidence:
        samples = [_highest_stable(table, arms) for arms in (first, second)]
        counts = {arm: len(sample) for arms, sample in zip((first, second), samples, strict=True) for arm in arms}
        return Ranks(f"highest stable rate, {label}", "grid steps", +1, 0.0, counts, *samples)

    return Question((*first, *second), f"highest stable learning rate, {label} > 0 grid steps", ask)


def _highest_stable(table: Table, arms: Sequence[str]) -> npt.NDArray[np.int64]:
    """For each seed that all arms have: the number, from 1, of the highest stable arm; 0 if none is stable."""
    runs = [{run.seed: run for run in table.runs(arm)} for arm in arms]
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm in runs)))
    steps = [max((i for i, of in enumerate(runs, 1) if is_stable(of[seed])), default=0) for seed in seeds]
    return np.array(steps, dtype=np.int64)


def varies_more(measure: Measure, first: str, second: str) -> Question:
    """Ask if the variance over seeds is larger for `first`, by F."""

    def ask(table: Table) -> Evidence:
        samples, counts = table.samples([first, second], measure)
        return VarianceRatio(f"variance of {measure.name}, {first} / {second}", "x", +1, 1.0, counts, *samples)

    return Question((first, second), f"variance over seeds of {measure.name}, {first} / {second} > 1", ask)


def matters(measure: Measure, factor: str, arms: Sequence[str], margin: float) -> Question:
    """Ask if the levels of a factor differ; the test against is that they all lie within `margin`."""

    def ask(table: Table) -> Evidence:
        levels, counts = table.samples(arms, measure)
        return Importance(f"share of variance by {factor}", "share", +1, 0.0, counts, levels, margin)

    return Question(tuple(arms), f"the means of {measure.name} differ by {factor} ({', '.join(arms)})", ask)


# --- combined -------------------------------------------------------------------------------------------


def all_of(*questions: Question, method: str = "") -> Question:
    """Ask if the answer to each is yes: the intersection-union test."""

    def ask(table: Table) -> Evidence:
        return Combined(tuple(question.ask(table) for question in questions), every=True, method=method)

    return Question(_arms(questions), _joined("; and ", questions), ask)


def between(low: Question, high: Question) -> Question:
    """Ask if one number lies above the bound of `low` and below that of `high` (Schuirmann 1987)."""
    return all_of(low, high, method="two one-sided tests, ")


def any_of(*questions: Question) -> Question:
    """Ask if the answer to at least one is yes: the union-intersection test."""

    def ask(table: Table) -> Evidence:
        return Combined(tuple(question.ask(table) for question in questions), every=False)

    return Question(_arms(questions), _joined("; or ", questions), ask)


def _arms(questions: Sequence[Question]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arm for question in questions for arm in question.arms))


def _joined(joint: str, questions: Sequence[Question]) -> str:
    return joint.join(dict.fromkeys(f"({q.words})" if "; " in q.words else q.words for q in questions))


def overfits(arm: str, epochs: int) -> Question:
    """Ask if some epoch before the last of `epochs` has a lower expected validation NLL.

    The lowest NLL of a run is below its last by chance alone, so `last - lowest` cannot be tested against 0. Instead,
    each epoch is compared with the last, within runs, with Bonferroni's correction for their number.
    """
    each = any_of(*(above(since(epoch), arm) for epoch in range(1, epochs)))
    return replace(each, words=f"{OVERFITTING}, {arm} > 0 nats")


def given(premise: Question, question: Question) -> Question:
    """Ask `question`, with no verdict if its premise is shown to fail (one-sided 2.5 %)."""

    def ask(table: Table) -> Evidence:
        return Combined((question.ask(table),), every=True, premise=premise.ask(table))

    words = f"{question.words}; no verdict where this premise is shown to fail: {premise.words}"
    return Question(_arms((question, premise)), words, ask)


def ranks_first(measures: Mapping[Measure, int], arm: str, others: Sequence[str], least: float) -> Question:
    """Ask if `arm` is the best of all, in each measure, highest (+1) or lowest (-1).

    Each difference is tested by itself. Support is withheld if the bootstrap probability of rank 1, with seeds
    resampled within each arm, is below `least` in some measure.
    """

    def ask(table: Table) -> Evidence:
        @cache
        def chances() -> dict[str, float]:
            return {
                f"P(rank 1) in {measure.name}": rank_one([sign * x.values for x in table.samples(arms, measure)[0]])
                for measure, sign in measures.items()
            }

        return Combined(tuple(pair.ask(table) for pair in pairs), every=True, least=least, chances=chances)

    arms = (arm, *others)
    pairs = [(above if d > 0 else below)(m, arm, other) for m, d in measures.items() for other in others]
    names = ", ".join(f"{'highest' if d > 0 else 'lowest'} {m.name}" for m, d in measures.items())
    words = f"{arm} has the {names} of {', '.join(arms)}; bootstrap P(rank 1) >= {least:g} in each"
    return Question(_arms(pairs), words, ask)


def rank_one(samples: Sequence[Array]) -> float:
    """The share of seeded bootstrap samples in which the first mean is the largest; 0 without values."""
    if not all(len(sample) for sample in samples):
        return 0.0
    random = np.random.default_rng(0)
    means = [x[random.integers(0, len(x), (RESAMPLES, len(x)))].mean(1) for x in samples]
    return float((means[0] > np.max(means[1:], axis=0)).mean())


def amount(value: float, unit: str) -> str:
    """A bound with its unit, for people."""
    match unit:
        case "points":
            return f"{100 * value:g} points"
        case "share":
            return f"{100 * value:g} %"
        case "nats" | "nats/epoch":
            return f"{value:g} {unit}"
        case _:
            return f"{value:g}"
