"""Describe placements, cells and runs in words."""

from __future__ import annotations

from typing import Final

from sweeper.advice.design import Cell, Run
from sweeper.core.placements import Placement

WORDS: Final = {
    Placement.NONE: "neither layer",
    Placement.BN: "BatchNorm only",
    Placement.DROPOUT: "Dropout only",
    Placement.BN_DROPOUT: "BatchNorm, then Dropout",
    Placement.DROPOUT_BN: "Dropout, then BatchNorm",
    Placement.BN_HEAD_DROPOUT: "BatchNorm, Dropout in the head",
    Placement.IC: "BatchNorm and Dropout before each layer",
    Placement.BN_DROPOUT_LAST: "BatchNorm, Dropout before a branch's last convolution",
    Placement.BN_DROPOUT_ADD: "BatchNorm, Dropout after the addition",
    Placement.BN_POOL_DROPOUT: "BatchNorm, Dropout before the pooling",
}


def cell_words(placement: Placement, cell: Cell | None) -> str:
    """Return a placement with its rates."""
    if cell is None:
        return WORDS[placement]
    rates = [f"{name} {rate:g}" for name, rate in (("conv", cell.conv_dropout), ("head", cell.head_dropout)) if rate]
    return f"{WORDS[placement]} ({', '.join(rates)})" if rates else WORDS[placement]


def run_words(run: Run) -> str:
    """Return a run for the table of progress: stage, placement, rates, learning rate and seed."""
    cell = run.cell
    rates = [f"{name} {rate:g}" for name, rate in (("conv", cell.conv_dropout), ("head", cell.head_dropout)) if rate]
    lr = [f"lr x{cell.lr:g}"] if cell.lr != 1 else []
    return " ".join([run.stage, cell.placement.value, *rates, *lr, f"seed {run.seed}"])
