"""Which sampler, which pruner and which choice of the best find the better configuration in as many trainings?

    python -m benchmarks.search_quality [--samplers gp tpe …] [--repetitions 40] [--raw build/search_quality] [--save]

Simulated accuracies stand in for trainings (search_responses.py), so that the best configuration is known: four
responses that were given, and three with a narrow joint optimum. The default search space is searched, one trial at a
time; a configuration that comes again is trained with another seed. Every rule has 65 trainings. Regret is the true
mean of the best configuration less that of the chosen one; the curse is what the rule reports of the chosen one less
its true mean; both in points of accuracy. Repetitions share their noise among samplers. Sweeps are kept in `--raw`, so
that an interrupted benchmark goes on, and a rule can be added without a new sweep; remove the folder when a sampler
changes.

A pruner is replayed on the sweeps of the search without one, with simulated learning curves in which Dropout starts
slower: which trials would it have ended, and when.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import optuna
from matplotlib.figure import Figure

from benchmarks.hardware import describe
from benchmarks.pages import add_save, command, conclude, head, table
from benchmarks.search_model import expected
from benchmarks.search_pruners import PRUNERS, Replayed, replay
from benchmarks.search_responses import GIVEN, OWN, RESPONSES, optimum, truth
from benchmarks.search_sweeps import BUDGET, SAMPLERS, SPACE, Tried, recorded_sweep, seed_noise
from sweeper.core.metric import ACCURACY
from sweeper.study.evidence import standings

FINALISTS: Final = 5
SEEDS: Final = 3
BASELINE: Final = ("plain Optuna", "highest of 65")
PRODUCT: Final = "5 finalists x 3"
BY_MODEL: Final = "3 x 2, all by the model"
SHOWN: Final = ("highest of 65", PRODUCT, BY_MODEL)  # rules that are shown of every sampler
COMPARED: Final = ("plain Optuna", "tpe", "gp")  # samplers whose rules are shown
PRUNED: Final = ("gp", "tpe")  # samplers on whose sweeps pruners are replayed
FIRST: Final = 1_000  # repetition: lower ones were for choosing what is compared


class Judged(NamedTuple):
    """A choice: its regret, and what was reported of it less its true mean, in points."""

    regret: float
    curse: float


def judge(response: str, params: Mapping[str, Any], reported: float) -> Judged:
    """Judge a choice by the truth."""
    true = truth(response, params)
    return Judged(optimum(response) - true, reported - true)


def highest(response: str, tried: Tried, repetition: int) -> Judged:
    """Choose the configuration of the highest single value."""
    del repetition
    params, value = max(tried, key=lambda each: each[1])
    return judge(response, params, value)


def finalists(response: str, tried: Tried, repetition: int, count: int, seeds: int, by_model: bool = False) -> Judged:
    """Search with what `count` finalists of `seeds` fresh seeds leave; choose by fresh means, report it shrunken."""
    searched = tried[: BUDGET - count * seeds]
    chosen = (_by_model if by_model else _by_standing)(searched)[:count]
    noise = seed_noise(repetition, 1, count * seeds).reshape(count, seeds)
    fresh = {str(i): [truth(response, params) + e for e in noise[i]] for i, params in enumerate(chosen)}
    first = standings(fresh, ACCURACY)[0]
    return judge(response, chosen[int(first.key)], first.shrunken)


def modelled(response: str, tried: Tried, repetition: int, count: int, seeds: int) -> Judged:
    """Choose finalists by the model's mean; choose among them by it once it has seen their fresh seeds; report it."""
    searched = tried[: BUDGET - count * seeds]
    chosen = _by_model(searched)[:count]
    noise = seed_noise(repetition, 1, count * seeds).reshape(count, seeds)
    fresh = [(params, truth(response, params) + float(e)) for i, params in enumerate(chosen) for e in noise[i]]
    params, mean = next(each for each in expected(SPACE, searched + fresh) if each[0] in chosen)
    return judge(response, params, mean)


def raw_mean(response: str, tried: Tried, repetition: int) -> Judged:
    """Choose as `finalists` does, and report the plain mean of the fresh seeds."""
    searched = tried[: BUDGET - FINALISTS * SEEDS]
    chosen = _by_standing(searched)[:FINALISTS]
    noise = seed_noise(repetition, 1, FINALISTS * SEEDS).reshape(FINALISTS, SEEDS)
    means = [truth(response, params) + float(noise[i].mean()) for i, params in enumerate(chosen)]
    return judge(response, chosen[int(np.argmax(means))], max(means))


def model_best(response: str, tried: Tried, repetition: int) -> Judged:
    """Choose the configuration of the highest mean in the model of all trainings."""
    del repetition
    return judge(response, *expected(SPACE, tried)[0])


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
    "highest of 65": highest,
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


def outcomes(sweeps: Sweeps) -> dict[tuple[str, str], dict[str, list[Judged]]]:
    """Return what each rule chose in each sweep: every rule for some samplers, three of them for all."""
    found = {}
    for sampler, responses in sweeps.items():
        for rule in RULES if sampler in COMPARED else SHOWN:
            found[sampler, rule] = {
                name: [RULES[rule](name, tried, repetition) for repetition, tried in repetitions.items()]
                for name, repetitions in responses.items()
            }
    return found


def sampler_rows(found: Outcomes) -> list[dict[str, Any]]:
    """The regret of each sampler with the highest of all and with finalists, by response and by group."""
    rows = []
    for (sampler, rule), by_response in found.items():
        if rule in SHOWN:
            each = {name: mean_of([one.regret for one in judged]) for name, judged in by_response.items()}
            rows.append({**_row(sampler, rule, by_response), **each})
    return rows


def rule_rows(found: Outcomes) -> list[dict[str, Any]]:
    """Regret and curse of each rule."""
    return [_row(sampler, rule, responses) for (sampler, rule), responses in found.items() if sampler in COMPARED]


def _row(sampler: str, rule: str, by_response: Mapping[str, list[Judged]]) -> dict[str, Any]:
    """The mean over responses in each repetition, then over repetitions: those of one share their noise."""

    def over(names: Sequence[str], value: Callable[[Judged], float]) -> Mean:
        columns = zip(*(by_response[name] for name in names), strict=True)
        return mean_of([statistics.fmean(map(value, column)) for column in columns])

    return {"sampler": sampler, "rule": rule, "n": len(by_response["additive"]),
            "four": over(list(GIVEN), lambda one: one.regret), "own": over(list(OWN), lambda one: one.regret),
            "curse": over(list(RESPONSES), lambda one: one.curse)}  # fmt: skip


def pruner_rows(sweeps: Sweeps) -> list[dict[str, Any]]:
    """Each pruner on the sweeps of each sampler: epochs saved, the best pruned, regret, pruned share by placement."""
    rows = []
    for sampler in (name for name in PRUNED if name in sweeps):
        for pruner in PRUNERS:
            found: list[Replayed] = []
            regrets = []
            for name in RESPONSES:
                for repetition, tried in sweeps[sampler][name].items():
                    search = tried[: BUDGET - FINALISTS * SEEDS]
                    found.append(replay(PRUNERS[pruner], name, search, repetition))
                    left = [each for each, pruned in zip(search, found[-1].pruned, strict=True) if not pruned]
                    regrets.append(_regret_of(name, left, repetition) - _regret_of(name, search, repetition))
            slow = [p for one in found for p, fast in zip(one.pruned, one.fast, strict=True) if not fast]
            fast = [p for one in found for p, fast in zip(one.pruned, one.fast, strict=True) if fast]
            rows.append({"sampler": sampler, "pruner": pruner, "n": len(found),
                         "saved": mean_of([one.saved for one in found]),
                         "best pruned": mean_of([float(one.best_pruned) for one in found]),
                         "regret": mean_of(regrets), "slow pruned": statistics.fmean(slow),
                         "fast pruned": statistics.fmean(fast)})  # fmt: skip
    return rows


def _regret_of(response: str, searched: Tried, repetition: int) -> float:
    """The regret of finalists of the trials that were not pruned."""
    chosen = _by_standing(searched)[:FINALISTS]
    noise = seed_noise(repetition, 1, FINALISTS * SEEDS).reshape(FINALISTS, SEEDS)
    means = [truth(response, params) + float(noise[i].mean()) for i, params in enumerate(chosen)]
    return optimum(response) - truth(response, chosen[int(np.argmax(means))])


def pages(rows: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return the tables."""
    base = next(row for row in rows["samplers"] if (row["sampler"], row["rule"]) == BASELINE)

    def share(row: Mapping[str, Any], group: str) -> str:
        return f"{row[group].show()} · {row[group].mean / base[group].mean:.2f}"

    samplers = table(
        ["sampler", "choice", "n", *RESPONSES, "the four · ratio", "narrow ones · ratio"],
        [[row["sampler"], row["rule"], str(row["n"]), *(row[name].show() for name in RESPONSES),
          share(row, "four"), share(row, "own")] for row in rows["samplers"]],
    )  # fmt: skip
    rules = table(
        ["sampler", "choice", "the four · ratio", "narrow ones · ratio", "reported less true"],
        [[row["sampler"], row["rule"], share(row, "four"), share(row, "own"), row["curse"].show()]
         for row in rows["rules"]],
    )  # fmt: skip
    pruners = table(
        ["sampler", "pruner", "epochs saved", "the best pruned", "regret added", "with Dropout pruned", "without"],
        [[row["sampler"], row["pruner"], f"{row['saved'].mean:.1%}", f"{row['best pruned'].mean:.1%}",
          row["regret"].show(), f"{row['slow pruned']:.0%}", f"{row['fast pruned']:.0%}"] for row in rows["pruners"]],
    )  # fmt: skip
    ratio = "The ratio is that to plain Optuna with the highest of 65."
    return ["## Samplers", f"Regret in points, mean ± standard error. {ratio}", samplers,
            "## Choice of the best", f"Regret and curse in points. {ratio}", rules,
            "## Pruners", "Replayed on sweeps without pruner, over all responses.", pruners]  # fmt: skip


def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The regret of each sampler, by group of responses."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    shown = [row for row in rows if row["rule"] == (BASELINE[1] if row["sampler"] == BASELINE[0] else BY_MODEL)]
    for axes, (group, title) in zip(
        figure.subplots(1, 2), {"four": "the four responses", "own": "narrow joint optima"}.items(), strict=True
    ):
        names = [f"{row['sampler']}, {row['rule']}" for row in shown]
        axes.barh(names, [row[group].mean for row in shown], xerr=[row[group].error for row in shown], color="#4c72b0")
        axes.invert_yaxis()
        axes.set(title=title, xlabel="regret after 65 trainings, points")
        axes.label_outer()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in SAMPLERS if not name.startswith("Optuna's")]  # these take seconds a sweep
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=usual)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--raw", type=Path, default=Path("build/search_quality"), help="folder of the sweeps")
    add_save(parser)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sweeps = {
        sampler: {
            name: {n: recorded_sweep(args.raw, sampler, name, n) for n in range(FIRST, FIRST + args.repetitions)}
            for name in RESPONSES
        }
        for sampler in dict.fromkeys((BASELINE[0], *args.samplers))
    }
    found = outcomes(sweeps)
    rows = {"samplers": sampler_rows(found), "rules": rule_rows(found), "pruners": pruner_rows(sweeps)}
    what = (f"{args.repetitions} repetitions of each of {len(RESPONSES)} responses, seed noise 0.25 points, "
            f"{BUDGET} trainings, one at a time.")  # fmt: skip
    hardware = describe()
    parts = [*head("Which sampler, pruner and choice of the best", hardware, what, command("search_quality", args)),
             *pages(rows)]  # fmt: skip
    conclude("search_quality", hardware, parts, rows, args.save, picture(rows["samplers"]))


if __name__ == "__main__":
    main()
