"""Is the advice right? Simulated networks with known truths, beside searches of as many trainings.

    python -m benchmarks.advise_quality [--worlds additive …] [--trainings 100] [--repetitions 40] [--save]

advise_worlds.py has the worlds. The advice is wrong if it says of any two placements that one is better than the other,
and it is not. Regret is the true accuracy of the best cell of the world less that of what is recommended; of the arms,
less that of the best of the cells that were compared. The searches are plain Optuna (its default sampler, the highest
value) and `sweeper optimize` (`gp`, five finalists of three seeds), over the same placements, rates and learning rates.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import optuna
from optuna.samplers import TPESampler

from benchmarks.advise_worlds import EPOCHS, NOISE, WORLDS, World
from benchmarks.hardware import describe
from benchmarks.pages import add_save, command, conclude, head, table
from sweeper.advice.design import Cell, Outcome, Plan, Run
from sweeper.advice.rounds import state
from sweeper.advice.screening import CONV, HEAD, LR
from sweeper.core.config import RunConfig
from sweeper.core.placements import PLAIN, Placement
from sweeper.study.samplers import make_sampler
from sweeper.study.space import Choice, Space

NEAR: Final = 0.2  # points
RUNG, MARGIN = 10, 0.02
BASE: Final = RunConfig(dataset="sample")
SPACE: Final = Space({"placement": Choice(tuple(each.value for each in PLAIN)), "conv_dropout": CONV,
                      "head_dropout": HEAD, "lr": LR})  # fmt: skip


class Advised(NamedTuple):
    """One recommendation, judged by the truth; in points."""

    regret: float
    of_arms: float
    wrong: bool
    told: int  # pairs of placements that were told apart, of 21
    stopped: int
    trainings: int


def advise(world: World, trainings: int, repetition: int) -> Advised:
    """Give advice once."""
    plan = Plan(PLAIN, trainings, EPOCHS, seed=repetition, rung=RUNG, margin=MARGIN)
    outcomes: dict[Run, Outcome] = {}
    rounds: Any = []
    cells = None
    while (found := state(plan, rounds, outcomes, cells)).missing:
        rounds, cells = found.rounds, found.cells or None
        for run in found.missing:
            outcomes[run] = world.train(plan, run, repetition, outcomes)
    truth = {placement.value: world.truth(cell) for placement, cell in found.cells.items() if cell}
    differences = found.comparison.found.items()
    wrong = any(each.told and (each.estimate > 0) != (truth[one] > truth[other]) for (one, other), each in differences)
    chosen = truth[found.comparison.best]
    told = sum(bool(each.told) for _, each in differences)
    return Advised(
        world.optimum - chosen, max(truth.values()) - chosen, bool(wrong), told,
        sum(each.accuracy is None for each in outcomes.values()), len(outcomes),
    )  # fmt: skip


def search(world: World, trainings: int, repetition: int, sampler: str) -> float:
    """Return the regret of a search: of plain Optuna the highest value, of `gp` the best mean of five finalists."""
    draw = np.random.default_rng([repetition, 1])
    study = optuna.create_study(direction="maximize")
    tried: list[tuple[float, Cell]] = []
    for number in range(trainings if sampler == "plain" else trainings - 15):
        seed = repetition * 1_000_003 + number
        study.sampler = TPESampler(seed=seed) if sampler == "plain" else make_sampler("gp", repetition, number, SPACE)
        trial = study.ask()
        SPACE.suggest(BASE, trial)
        params = trial.params
        rates = (params.get(name, 0.0) for name in ("conv_dropout", "head_dropout"))
        cell = Cell.of(Placement(params["placement"]), *rates, params["lr"])
        tried.append((_value(world, cell, draw), cell))
        study.tell(trial, tried[-1][0])
    best = sorted(tried, key=lambda each: -each[0])
    if sampler != "plain":
        best = sorted(
            ((statistics.fmean(_value(world, cell, draw) for _ in range(3)), cell) for _, cell in best[:5]),
            key=lambda each: -each[0],
        )
    return world.optimum - world.truth(best[0][1])


def _value(world: World, cell: Cell, draw: np.random.Generator) -> float:
    return world.truth(cell) + world.noise.get(cell.placement.value, NOISE) * float(draw.normal())


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one world."""
    world, numbers = WORLDS[name], range(args.repetitions)
    found = [advise(world, args.trainings, number) for number in numbers]
    regrets = {"advise": [each.regret for each in found]}
    for sampler, label in (("plain", "plain Optuna"), ("gp", "optimize")):
        regrets[label] = [search(world, args.trainings, number, sampler) for number in numbers]
    return {
        "world": name, "n": len(found), "regret": regrets, "arms": [each.of_arms for each in found],
        "wrong": sum(each.wrong for each in found), "told": statistics.fmean(each.told for each in found),
        "near": sum(bool(each.regret <= NEAR) for each in found), "trainings": max(each.trainings for each in found),
    }  # fmt: skip


def page(rows: list[dict[str, Any]], args: argparse.Namespace, hardware: dict[str, Any]) -> list[str]:
    """Return the page."""
    cells = [
        [row["world"], str(row["n"]), *(_mean(values) for values in row["regret"].values()), _mean(row["arms"]),
         f"{row['near']} of {row['n']}", f"{row['wrong']} of {row['n']}", f"{row['told']:.1f} of 21"]
        for row in rows
    ]  # fmt: skip
    total = {label: [value for row in rows for value in row["regret"][label]] for label in rows[0]["regret"]}
    means = {label: statistics.fmean(values) for label, values in total.items()}
    n, near, wrong = (sum(row[name] for row in rows) for name in ("n", "near", "wrong"))
    ratios = {name: means["advise"] / mean for name, mean in means.items() if name != "advise"}
    others = ", ".join(f"{ratio:.2f} of that of {name}" for name, ratio in ratios.items())
    summary = (
        f"Of {n} recommendations {near} ({near / n:.1%}) are within {NEAR} points of the best there is, and "
        f"{wrong} ({wrong / n:.1%}) call a placement better that is not. The mean regret is {means['advise']:.3f} "
        f"points: {others}."
    )
    columns = ("world", "n", "advise: regret", "plain Optuna", "optimize", "of the compared", f"within {NEAR} points",
               "a wrong sentence", "pairs told apart")  # fmt: skip
    what = f"At most {args.trainings} trainings, seed noise {NOISE} points unless the world says otherwise."
    return [
        *head("Is the advice right?", hardware, what, command("advise_quality", args)),
        summary,
        table(columns, cells),
    ]


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), metavar="WORLD")
    parser.add_argument("--trainings", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=40)
    add_save(parser)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows = []
    for name in args.worlds:
        rows.append(measure(name, args))
        print(name, {label: _mean(values) for label, values in rows[-1]["regret"].items()}, flush=True)
    hardware = describe()
    conclude("advise_quality", hardware, page(rows, args, hardware), {"rows": rows}, args.save)


if __name__ == "__main__":
    main()
