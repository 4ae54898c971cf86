"""The errors that a model was surest of, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from sweeper.report.figure import DPI, INK, SOFT_INK, VERMILLION, as_png, notice

if TYPE_CHECKING:
    from sweeper.core.results import Mistake
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.core.results import Mistake


COLUMNS: Final = 8
ROW_INCHES: Final = 1.62


def errors(mistakes: Sequence[Mistake], title: str) -> bytes:
    """A grid of images, each with what it is, what it was taken for, and how sure of that the model was.

    Args:
        mistakes: the surest first.
        title: the heading where there is none to draw.

    Returns:
        A PNG image, 1500 pixels wide.
    """
    if not mistakes:
        return notice(title, "Every image was recognised.")
    rows = -(-len(mistakes) // COLUMNS)
    figure = Figure(figsize=(10, ROW_INCHES * rows), dpi=DPI, facecolor="white")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.02 / rows, bottom=0.42 / (ROW_INCHES * rows), hspace=0.55,
                           wspace=0.12)  # fmt: skip
    for axes in grid:
        axes.set_axis_off()
    for axes, mistake in zip(grid, mistakes, strict=False):
        axes.imshow(mistake.pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        lines = ((mistake.truth, INK), (f"{mistake.predicted} {mistake.confidence:.0%}", VERMILLION))
        for line, (words, color) in enumerate(lines):
            axes.text(0.5, -0.12 - 0.17 * line, words, transform=axes.transAxes, ha="center", va="center",
                      fontsize=8.5, color=color if line else SOFT_INK, parse_math=False)  # fmt: skip
    return as_png(figure)


def errors_picture(mistakes: list[Mistake]) -> bytes:
    """The errors that a champion was surest of."""
    return errors(mistakes, "The champion's errors")
