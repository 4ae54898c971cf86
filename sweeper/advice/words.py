"""Show the advice as lines on a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from sweeper.advice.answers import reasons
from sweeper.advice.placed import WORDS, cell_words
from sweeper.advice.result import Advice, Row
from sweeper.core.config import RunConfig
from sweeper.core.intervals import accuracy_words
from sweeper.core.metric import ACCURACY
from sweeper.core.text import counted, duration

NOT_EXAMINED: Final = "weight decay, batch size, augmentation, optimizers other than AdamW"


def lines(advice: Advice, width: int) -> list[str]:
    """Return the advice as lines; sentences are wrapped at `width` characters, but not below 60."""
    train, _, classes = advice.counts
    head = (
        f"{advice.network} on {advice.images} ({train:,} training images, {classes} classes), "
        f"{counted(advice.trainings, 'run')} of {counted(advice.epochs, 'epoch')} in {duration(advice.seconds)}"
    )
    sentences = [answer.sentence for answer in advice.answers] + why(advice)
    if advice.test:
        sentences.append(
            f"Test accuracy of the recommendation, retrained on train + validation: "
            f"{accuracy_words(advice.test, ACCURACY)} (evaluated once)."
        )
    sentences.append(f"Not examined: {NOT_EXAMINED}.")
    wrapped = [line for sentence in sentences for line in textwrap.wrap(sentence, max(60, min(width, 120)))]
    return [head, *ranking_lines(advice.rows), *wrapped, *([f"report: {advice.report}"] if advice.report else [])]


def ranking_lines(rows: Sequence[Row]) -> list[str]:
    """Return the ranking as aligned lines."""
    table = [_cells(rank, row) for rank, row in enumerate(rows, 1)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in table]
    return [f"  {line}" for line in lines]


def why(advice: Advice) -> list[str]:
    """Return the reasons for the best placement, and for the worst one with BatchNorm."""
    plain = next((row.measures for row in advice.rows if row.placement == "none"), {})
    worst = [row for row in advice.rows[1:] if row.placement.has_batch_norm and row.measures][-1:]
    return [
        f"{WORDS[row.placement]}: {' '.join(found)}"
        for row in (advice.best, *worst)
        if (found := reasons(row.measures, plain if row.placement != "none" else {}))
    ]


def _cells(rank: int, row: Row) -> tuple[str, str, str, str, str]:
    value = "" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.2f} %"
    interval = "" if math.isnan(row.low) else f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
    seeds = f"{counted(row.seeds, 'seed')}" if row.seeds else ""
    return f"{rank}  {cell_words(row.placement, row.cell)}", value, interval, seeds, row.verdict


def recipe(config: RunConfig) -> str:
    """Return the settings that all runs share."""
    return (
        f"augmentation {config.augmentation}, batch size {config.batch_size}, weight decay {config.weight_decay:g}, "
        f"schedule {config.schedule}, AdamW"
    )
