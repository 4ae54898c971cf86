"""The X-ray as a table of 80 columns, and its sentence of advice. docs/how-to/xray-your-model.md has the rules."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from sweeper.core.text import counted

if TYPE_CHECKING:
    from sweeper.core.xray import BatchNormLayer, XRay

WIDTH: Final = 80
LEAST: Final = 0.05  # a ratio that stands out is at least this far above its floor
ONE_SIDED: Final = 0.5  # share of the ratio that the signed shift explains if the channels shift alike
COLUMNS: Final = (("channels", 8), ("shift", 6), ("floor", 6), ("closed", 6), ("noise", 6), ("dead", 4), ("Dropout", 8))
NAME: Final = WIDTH - sum(width + 2 for _, width in COLUMNS)  # the most characters of a layer's name
LEGEND: Final = "shift: variance in training against evaluation, 1 is none; floor: by noise alone"


def describe(xray: XRay) -> str:
    """Return the table of the layers, the layers without numbers, the gain of recalibration, and the advice."""
    title = f"X-ray of {counted(len(xray.layers), 'BatchNorm layer')}, {xray.images:,} images a pass"
    lines = [title, LEGEND, "", *_table(xray.layers), "", _gain_line(xray)] if xray.layers else []
    left_out = [f"left out: {skipped.name}, which {skipped.reason}" for skipped in xray.skipped]
    for text in (*left_out, advise(xray)):
        lines += textwrap.wrap(text, WIDTH)
    return "\n".join(lines)


def advise(xray: XRay) -> str:
    """Return one sentence about the layer that stands out most, or the reason why there is none."""
    if not xray.layers:
        return "No BatchNorm layer could be examined." if xray.skipped else "The network has no BatchNorm layer."
    if layer := furthest(xray.layers):
        return f"BatchNorm {layer.name} {_finding(layer)}: {_remedy(layer, xray)}."
    if not any(math.isfinite(layer.floor) for layer in xray.layers):
        return "A shift cannot be told from noise: give two batches or more, of channels whose values vary."
    return "No BatchNorm layer stands out from the noise of batches."


def furthest(layers: Iterable[BatchNormLayer]) -> BatchNormLayer | None:
    """Return the layer whose ratio is furthest above its floor, if it stands out.

    A layer stands out if its ratio is more than `LEAST` above its floor, and twice as far above 1 as the floor.
    """
    out = [
        layer
        for layer in layers
        if layer.ratio - layer.floor > LEAST and layer.ratio - 1 > 2 * (layer.floor - 1)  # False for NaN
    ]
    return max(out, key=lambda layer: layer.ratio - layer.floor, default=None)


def _finding(layer: BatchNormLayer) -> str:
    if abs(layer.signed) < ONE_SIDED * math.log(layer.ratio):
        return f"has channels whose variances differ {layer.ratio:.3g} times between training and evaluation"
    return f"sees {math.exp(-layer.signed):.3g} times the variance in training"


def _remedy(layer: BatchNormLayer, xray: XRay) -> str:
    if layer.dropout:
        move = f"move the Dropout before it ({layer.dropout}) behind it"
    elif layer.earlier:
        move = f"move the earlier Dropout ({layer.earlier}) behind the last BatchNorm"
    else:
        move = "no Dropout comes before it, so its running statistics are of other data or of too few steps"
    again = f"{move}{', or' if layer.earlier else ';'} recalibrate"
    accuracy, loss = xray.recalibration_gain_accuracy, xray.recalibration_gain_loss
    if not math.isfinite(accuracy):
        return again
    if accuracy < 0 or (accuracy == 0 and not loss > 0):
        return f"{move}; recalibration does not help ({_points(accuracy)})"
    return f"{again}: {_points(accuracy)}"


def _gain_line(xray: XRay) -> str:
    if not math.isfinite(xray.recalibration_gain_accuracy):
        return "recalibration: not measured, for want of images with class labels"
    loss = -xray.recalibration_gain_loss
    return f"recalibration: accuracy {_points(xray.recalibration_gain_accuracy)}, loss {loss:+.4f} nats"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _table(layers: Sequence[BatchNormLayer]) -> list[str]:
    """Return the heading and one line per layer; a long name keeps its end."""
    names = [layer.name if len(layer.name) <= NAME else f"...{layer.name[3 - NAME :]}" for layer in layers]
    width = max(len(name) for name in ("layer", *names))
    head = "".join(f"  {title:>{size}}" for title, size in COLUMNS)
    rows = [f"{'layer':{width}}{head}"]
    for name, layer in zip(names, layers, strict=True):
        cells = "".join(f"  {cell:>{size}}" for cell, (_, size) in zip(_cells(layer), COLUMNS, strict=True))
        rows.append(f"{name:{width}}{cells}".rstrip())
    return rows


def _cells(layer: BatchNormLayer) -> tuple[str, ...]:
    dropout = "before" if layer.dropout else "earlier" if layer.earlier else ""
    numbers = map(_number, (layer.ratio, layer.floor, layer.closed_form, layer.batch_noise))
    return (str(layer.channels), *numbers, str(layer.dead), dropout)


def _number(value: float) -> str:
    """Return a number in six characters; a dash for one that is missing."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if value < 99.9995 else f"{value:.0f}" if value < 999_999.5 else f"{value:.0e}"
