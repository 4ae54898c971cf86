"""Placements and cells in words, and as the lines of code that build them."""

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
BLOCKS: Final = {  # of a convolution, and of the head; RATE is filled in
    Placement.NONE: (("conv", "relu"), ("linear", "relu", "linear")),
    Placement.BN: (("conv", "bn", "relu"), ("linear", "relu", "linear")),
    Placement.DROPOUT: (("conv", "relu", "drop2d"), ("linear", "relu", "drop", "linear")),
    Placement.BN_DROPOUT: (("conv", "bn", "relu", "drop2d"), ("linear", "relu", "drop", "linear")),
    Placement.DROPOUT_BN: (("conv", "drop2d", "bn", "relu"), ("linear", "relu", "drop", "linear")),
    Placement.BN_HEAD_DROPOUT: (("conv", "bn", "relu"), ("linear", "relu", "drop", "linear")),
    Placement.IC: (("bn", "drop2d", "conv", "relu"), ("bn1d", "drop", "linear", "relu", "bn1d", "drop", "linear")),
}
CODE: Final = {
    "conv": "nn.Conv2d(c_in, c_out, 3, padding=1)",
    "bn": "nn.BatchNorm2d(c_out)",
    "bn1d": "nn.BatchNorm1d(n)",
    "relu": "nn.ReLU()",
    "drop2d": "nn.Dropout2d({conv:g})",
    "drop": "nn.Dropout({head:g})",
    "linear": "nn.Linear(n_in, n_out)",
}


def cell_words(placement: Placement, cell: Cell | None) -> str:
    """Return a placement with its rates."""
    if cell is None:
        return WORDS[placement]
    rates = [f"{name} {rate:g}" for name, rate in (("conv", cell.conv_dropout), ("head", cell.head_dropout)) if rate]
    return f"{WORDS[placement]} ({', '.join(rates)})" if rates else WORDS[placement]


NAMES: Final = {
    "conv": "Conv", "bn": "BatchNorm", "bn1d": "BatchNorm", "relu": "ReLU", "drop2d": "Dropout2d {conv:g}",
    "drop": "Dropout {head:g}", "linear": "Linear",
}  # fmt: skip


def drawing(cell: Cell) -> str:
    """Return a convolution and the head in one line each, from left to right; nothing for residual networks."""
    if cell.placement not in BLOCKS:
        return ""
    block, head = (
        " → ".join(NAMES[part].format(conv=cell.conv_dropout, head=cell.head_dropout) for part in parts)
        for parts in BLOCKS[cell.placement]
    )
    return f"each convolution: {block}\nhead: {head}"


def snippet(cell: Cell) -> str:
    """Return the lines of code that build a block and the head; for residual networks, the placement's name."""
    if cell.placement not in BLOCKS:
        return f"# placement {cell.placement.value}: docs/reference/placements.md draws it"
    block, head = (
        "\n".join(f"    {CODE[part].format(conv=cell.conv_dropout, head=cell.head_dropout)}," for part in parts)
        for parts in BLOCKS[cell.placement]
    )
    return f"block = nn.Sequential(\n{block}\n)\nhead = nn.Sequential(\n{head}\n)"


def run_words(run: Run) -> str:
    """Return a run for the table of progress: stage, placement, rates, learning rate and seed."""
    cell = run.cell
    rates = [f"{name} {rate:g}" for name, rate in (("conv", cell.conv_dropout), ("head", cell.head_dropout)) if rate]
    lr = [f"lr x{cell.lr:g}"] if cell.lr != 1 else []
    return " ".join([run.stage, cell.placement.value, *rates, *lr, f"seed {run.seed}"])
