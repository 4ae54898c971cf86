"""A champion's most confident errors, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from sweeper.report.figure import DPI, SOFT_INK, VERMILLION, as_png, notice

if TYPE_CHECKING:
    from sweeper.core.results import Mistake

COLUMNS: Final = 8
ROW_INCHES: Final = 1.62
MOST_LETTERS: Final = 15  # of a class's name


def errors_picture(mistakes: Sequence[Mistake]) -> bytes:
    """Draw a grid of images, grey or in colour, each with its true class, the predicted class and the confidence.

    Returns:
        A PNG image, 1500 pixels wide.
    """
    if not mistakes:
        return notice("The champion's errors", "Every image was recognised.")
    rows = -(-len(mistakes) // COLUMNS)
    figure = Figure(figsize=(10, ROW_INCHES * rows), dpi=DPI, facecolor="white")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.02 / rows, bottom=0.42 / (ROW_INCHES * rows), hspace=0.55,
                           wspace=0.12)  # fmt: skip
    for axes in grid:
        axes.set_axis_off()
    for axes, mistake in zip(grid, mistakes, strict=False):
        axes.imshow(mistake.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        truth, predicted = _short(mistake.truth), f"{_short(mistake.predicted)} {mistake.confidence:.0%}"
        for height, words, color in ((-0.12, truth, SOFT_INK), (-0.29, predicted, VERMILLION)):
            axes.text(0.5, height, words, transform=axes.transAxes, ha="center", va="center", fontsize=8.5,
                      color=color, parse_math=False)  # fmt: skip
    return as_png(figure)


def _short(name: str) -> str:
    """Return the name of a class, cut where it would run into the next picture."""
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
