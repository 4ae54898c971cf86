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
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from matplotlib.figure import Figure

from benchmarks.hardware import describe
from benchmarks.pages import add_save, command, conclude, head, table
from benchmarks.search_pruners import pruner_rows
from benchmarks.search_responses import GIVEN, OWN, RESPONSES
from benchmarks.search_rules import BASELINE, BY_MODEL, COMPARED, SHOWN, Judged, Mean, Outcomes, mean_of, outcomes
from benchmarks.search_sweeps import BUDGET, FIRST, SAMPLERS, USUAL, recorded_sweep

PRUNED: Final = ("gp", "tpe")  # samplers on whose sweeps pruners are replayed

GROUPS: Final = {"four": "the four responses", "own": "narrow joint optima"}  # of the picture


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
          row["regret"].show(), f"{row['with Dropout']:.0%}", f"{row['without']:.0%}"] for row in rows["pruners"]],
    )  # fmt: skip
    ratio = "The ratio is that to plain Optuna with the highest of 65."
    return ["## Samplers", f"Regret in points, mean ± standard error. {ratio}", samplers,
            "## Choice of the best", f"Regret and curse in points. {ratio}", rules,
            "## Pruners", "Replayed on sweeps without pruner, over all responses.", pruners]  # fmt: skip


def picture(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, str]) -> Figure:
    """The regret of each sampler, by group of responses: its name in a row, and a title."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    shown = [row for row in rows if row["rule"] == (BASELINE[1] if row["sampler"] == BASELINE[0] else BY_MODEL)]
    for axes, (group, title) in zip(figure.subplots(1, 2), groups.items(), strict=True):
        names = [f"{row['sampler']}, {row['rule']}" for row in shown]
        axes.barh(names, [row[group].mean for row in shown], xerr=[row[group].error for row in shown], color="#4c72b0")
        axes.invert_yaxis()
        axes.set(title=title, xlabel="regret after 65 trainings, points")
        axes.label_outer()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=USUAL)
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
    rows = {
        "samplers": sampler_rows(found),
        "rules": rule_rows(found),
        "pruners": pruner_rows(sweeps, [name for name in PRUNED if name in sweeps], list(RESPONSES)),
    }
    what = (f"{args.repetitions} repetitions of each of {len(RESPONSES)} responses, seed noise 0.25 points, "
            f"{BUDGET} trainings, one at a time.")  # fmt: skip
    hardware = describe()
    parts = [*head("Which sampler, pruner and choice of the best", hardware, what, command("search_quality", args)),
             *pages(rows)]  # fmt: skip
    conclude("search_quality", hardware, parts, rows, args.save, picture(rows["samplers"], GROUPS))


if __name__ == "__main__":
    main()
