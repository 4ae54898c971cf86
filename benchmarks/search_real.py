"""Which sampler, pruner and choice of the best find the better configuration of a real network?

    python -m benchmarks.search_real [--samplers gp tpe …] [--repetitions 40] [--raw build/search_quality] [--save]

As `search_quality`, on real trainings that `search_table` has recorded; search_recorded.py says how they are replayed.
Each repetition is searched twice: on all seeds, and on all but one, which then is the truth.

Beside it: pruners on the recorded curves; Optuna's WilcoxonPruner on folds, for which seeds stand in; and sweeps with
several trials in flight, on these trainings and on one simulated response. Remove the folder `--raw` when a sampler or
the table changes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna

from benchmarks.hardware import describe
from benchmarks.pages import add_save, command, conclude, head
from benchmarks.search_folds import fold_rows
from benchmarks.search_pruners import pruner_rows
from benchmarks.search_quality import PRUNED, picture
from benchmarks.search_real_pages import AT_ONCE, pages
from benchmarks.search_recorded import LEFT_OUT, REAL, Table, read_table
from benchmarks.search_rules import (
    BASELINE,
    COMPARED,
    PRODUCT,
    RULES,
    Judged,
    Outcomes,
    Sweeps,
    mean_of,
    outcomes,
)
from benchmarks.search_sweeps import BUDGET, FIRST, SAMPLERS, USUAL, recorded_sweep

FLIGHT: Final = (REAL, "interaction")  # responses on which trials are in flight
GROUPS: Final = {"real": "real trainings, replayed", "left out": "judged by a seed that the search did not see"}


def run(args: argparse.Namespace) -> Sweeps:
    """Run the sweeps of each sampler: all repetitions on all seeds, and each once more with a seed left out."""
    seeds, numbers = read_table()[0]["seeds"], range(FIRST, FIRST + args.repetitions)
    todo = {REAL: list(numbers)} | {LEFT_OUT.format(k): [n for n in numbers if n % seeds == k] for k in range(seeds)}
    return {
        sampler: {name: {n: recorded_sweep(args.raw, sampler, name, n) for n in each} for name, each in todo.items()}
        for sampler in dict.fromkeys((BASELINE[0], *args.samplers))
    }


def rows_of(found: Outcomes) -> list[dict[str, Any]]:
    """Regret and curse of each sampler and rule, and the regret less plain Optuna's, in pairs of one repetition."""
    base = _groups(found[BASELINE])
    rows = []
    for (sampler, rule), by_response in found.items():
        row: dict[str, Any] = {"sampler": sampler, "rule": rule, "n": len(base["real"])}
        for name, judged in _groups(by_response).items():
            less = [one.regret - other.regret for one, other in zip(judged, base[name], strict=True)]
            row[name] = mean_of([one.regret for one in judged])
            row |= {f"{name}, less": mean_of(less), f"{name}, curse": mean_of([one.curse for one in judged])}
        rows.append(row)
    return rows


def _groups(by_response: Mapping[str, list[Judged]]) -> dict[str, list[Judged]]:
    left_out = [judged for name, judged in by_response.items() if name != REAL]
    return {"real": by_response[REAL], "left out": [one for judged in left_out for one in judged]}


def flight_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Regret of five finalists of three seeds, with several trials in flight."""
    rows = []
    for sampler in (name for name in COMPARED if name in (BASELINE[0], *args.samplers)):
        for name in FLIGHT:
            row: dict[str, Any] = {"sampler": sampler, "response": name, "n": args.repetitions}
            for at_once in AT_ONCE:
                numbers = range(FIRST, FIRST + args.repetitions)
                sweeps = {n: recorded_sweep(args.raw, sampler, name, n, at_once) for n in numbers}
                row[str(at_once)] = mean_of([RULES[PRODUCT](name, tried, n).regret for n, tried in sweeps.items()])
            rows.append(row)
    return rows


def placement_rows() -> list[dict[str, Any]]:
    """The recorded trainings of each placement: its best cell, and what became of the loss there."""
    return [{"placement": placement, **_best_cell(each)} for placement, each in read_table()[1].items()]


def _best_cell(recorded: Table) -> dict[str, Any]:
    ends = recorded.accuracy[..., -1]
    means = ends.mean(-1)
    best = np.unravel_index(int(means.argmax()), means.shape)
    place = {name: float(axis[i]) for (name, axis), i in zip(recorded.axes.items(), best, strict=True)}
    loss = recorded.loss[best].mean(0)
    return {
        "cells": means.size,
        "worst": float(means.min()),
        "best": mean_of(ends[best].tolist()),
        "rates": [place.get("conv_dropout"), place.get("head_dropout")],
        "batch_size": round(2 ** place["batch_size"]),
        "noise": float(np.sqrt(ends.var(-1, ddof=1).mean())),
        "least loss": float(loss.min()),
        "epoch": int(loss.argmin()) + 1,
        "loss": float(loss[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=USUAL)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--raw", type=Path, default=Path("build/search_quality"), help="folder of the sweeps")
    add_save(parser)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sweeps = run(args)
    pruned = [name for name in PRUNED if name in sweeps]
    rows = {"choices": rows_of(outcomes(sweeps)), "pruners": pruner_rows(sweeps, pruned, [REAL]),
            "folds": fold_rows(sweeps, pruned, REAL), "flight": flight_rows(args),
            "placements": placement_rows()}  # fmt: skip
    what = f"{args.repetitions} repetitions, {BUDGET} trainings, of which each is a replayed one."
    hardware = describe()
    parts = [*head("Which sampler, pruner and choice of the best, on real trainings", hardware, what,
                   command("search_real", args)), *pages(rows)]  # fmt: skip
    conclude("search_real", hardware, parts, rows, args.save, picture(rows["choices"], GROUPS))


if __name__ == "__main__":
    main()
