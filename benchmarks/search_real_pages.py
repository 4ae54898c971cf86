"""The tables of `search_real`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.pages import table
from benchmarks.search_recorded import LEFT_OUT, REAL, read_table
from benchmarks.search_responses import NAMES, response
from benchmarks.search_rules import BASELINE, COMPARED, PRODUCT, SHOWN

Rows = Iterable[Mapping[str, Any]]
AT_ONCE: Final = (1, 4, 16)
RATIO: Final = (
    "The ratio is to plain Optuna with the highest of 65; *less* is the difference from it, repetition by repetition."
)


def pages(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the sections of the page."""
    shown = [row for row in rows["choices"] if row["rule"] in SHOWN]
    compared = [row for row in rows["choices"] if row["sampler"] in COMPARED]
    flight = f"Regret in points of {PRODUCT}. The first training to begin is the first to end."
    return [
        *("## The trainings", _about(), _trainings(rows["placements"])),
        *("## Samplers", f"Regret in points, mean ± standard error. {RATIO}", _choices(shown)),
        *("## Choice of the best", f"Regret in points. {RATIO}", _choices(compared)),
        *("## Pruners", "Replayed on sweeps without pruner, with the recorded curves.", _pruners(rows["pruners"])),
        *("## Folds", "Optuna's WilcoxonPruner, were folds trained one after another.", _folds(rows["folds"])),
        *("## Trials in flight", flight, _flight(rows["flight"])),
    ]


def _about() -> str:
    about, truth = read_table()[0], response(REAL)
    base, hardware, seeds = about["base"], about["hardware"], about["seeds"]
    left_out = statistics.fmean(response(LEFT_OUT.format(seed)).optimum for seed in range(seeds))
    return (
        f"{about['n']} trainings of the {base['model']} network on {base['train_images']:,} images of the embedded "
        f"sample, validated on 1,000: {about['n'] // seeds} cells of {seeds} seeds, {base['epochs']} epochs, learning "
        f"rate {base['lr']:g}, {base['schedule']}. They took {about['cpu_seconds']:,} s of the processor "
        f"({hardware['cpu']}, torch {hardware['versions']['torch']}, {hardware['date']}). The highest mean is "
        f"{truth.optimum:.2f} %. Chosen by all seeds but one and read by that one, it is {left_out:.2f} %. Seeds have "
        f"a standard deviation of {truth.noise:.2f} points."
    )


def _trainings(rows: Rows) -> str:
    header = ["placement", "cells", "worst, %", "best, %", "its conv rate", "its head rate", "its batch size",
              "its least val loss", "in epoch", "its last", "seed noise"]  # fmt: skip
    return table(header, [
        [row["placement"], str(row["cells"]), f"{row['worst']:.1f}", row["best"].show(), *map(_rate, row["rates"]),
         str(row["batch_size"]), f"{row['least loss']:.3f}", str(row["epoch"]), f"{row['loss']:.3f}",
         f"{row['noise']:.2f}"]
        for row in rows
    ])  # fmt: skip


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:g}"


def _choices(rows: Sequence[Mapping[str, Any]]) -> str:
    base = next(row for row in rows if (row["sampler"], row["rule"]) == BASELINE)["real"].mean
    header = ["sampler", "choice", "n", "all seeds · ratio", "less", "reported less true", "a seed left out", "less",
              "reported less true"]  # fmt: skip
    return table(header, [
        [row["sampler"], row["rule"], str(row["n"]), f"{row['real'].show()} · {row['real'].mean / base:.2f}",
         *(row[name].show() for name in ("real, less", "real, curse", "left out", "left out, less", "left out, curse"))]
        for row in rows
    ])  # fmt: skip


def _pruners(rows: Rows) -> str:
    header = [
        "sampler",
        "pruner",
        "epochs saved",
        "the best pruned",
        "regret added",
        *(f"{each} pruned" for each in NAMES),
    ]
    return table(header, [
        [row["sampler"], row["pruner"], f"{row['saved'].mean:.1%}", f"{row['best pruned'].mean:.1%}",
         row["regret"].show(), *(f"{row['placements'][name]:.0%}" for name in NAMES)]
        for row in rows
    ])  # fmt: skip


def _folds(rows: Rows) -> str:
    return table(["sampler", "folds", "n", "trainings saved", "the best pruned"], [
        [row["sampler"], str(row["folds"]), str(row["n"]), f"{row['saved'].mean:.1%}", f"{row['best pruned'].mean:.1%}"]
        for row in rows
    ])  # fmt: skip


def _flight(rows: Rows) -> str:
    return table(["sampler", "response", "n", *(f"{at_once} at once" for at_once in AT_ONCE)], [
        [row["sampler"], row["response"], str(row["n"]), *(row[str(at_once)].show() for at_once in AT_ONCE)]
        for row in rows
    ])  # fmt: skip
