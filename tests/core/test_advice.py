"""The table of an X-ray, and the rules of its advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeper.core.advice import WIDTH, furthest
from sweeper.core.xray import Skipped, XRay
from tests.core.test_xray import LAYER, NAN, SIDE, layers

QUIET = replace(LAYER, name="layer1.bn", ratio=1.03, signed=-0.01, floor=1.02)
SHIFTED = replace(LAYER, name="layer3.0.bn2", ratio=1.32, signed=-0.27, floor=1.02, dropout="drop", earlier="drop")


def xray(*shown: Any, accuracy: float = NAN, loss: float = NAN, **others: Any) -> XRay:
    return XRay(shown, 2_048, accuracy, loss, **others)


@pytest.mark.parametrize(
    ("changes", "gain", "advice"),
    [
        ({}, (0.004, 0.01), "sees 1.31 times the variance in training: move the Dropout before it (drop) behind it, or "
         "recalibrate: +0.4 points."),
        ({}, (NAN, NAN), "sees 1.31 times the variance in training: move the Dropout before it (drop) behind it, or "
         "recalibrate."),
        ({}, (0.0, 0.01), "sees 1.31 times the variance in training: move the Dropout before it (drop) behind it, or "
         "recalibrate: +0.0 points."),
        ({}, (0.0, -0.01), "sees 1.31 times the variance in training: move the Dropout before it (drop) behind it; "
         "recalibration does not help (+0.0 points)."),
        ({"dropout": ""}, (-0.001, 0.01), "sees 1.31 times the variance in training: move the earlier Dropout (drop) "
         "behind the last BatchNorm; recalibration does not help (-0.1 points)."),
        ({"dropout": "", "earlier": "", "signed": 0.27}, (0.1, 0.1), "sees 0.763 times the variance in training: no "
         "Dropout comes before it, so its running statistics are of other data or of too few steps; recalibrate: +10.0 "
         "points."),
        ({"signed": 0.01}, (NAN, NAN), "has channels whose variances differ 1.32 times between training and "
         "evaluation: move the Dropout before it (drop) behind it, or recalibrate."),
    ],
    ids=["before", "no labels", "only the loss gains", "no gain", "earlier", "no Dropout", "both ways"],
)  # fmt: skip
def test_the_advice(changes: dict[str, Any], gain: tuple[float, float], advice: str):
    found = xray(QUIET, replace(SHIFTED, **changes), accuracy=gain[0], loss=gain[1])
    assert found.advice == f"BatchNorm layer3.0.bn2 {advice}"
    assert str(found).replace("\n", " ").endswith(found.advice)


@pytest.mark.parametrize(
    ("ratio", "floor", "stands_out"),
    [(1.30, 1.02, True), (1.06, 1.02, False), (1.30, 1.20, False), (1.45, 1.20, True), (NAN, 1.02, False),
     (1.30, NAN, False)],
)  # fmt: skip
def test_a_layer_stands_out_if_noise_does_not_explain_it(ratio: float, floor: float, stands_out: bool):
    assert (furthest([replace(SHIFTED, ratio=ratio, floor=floor)]) is not None) is stands_out


def test_the_layer_that_is_furthest_above_its_floor_is_named():
    noisy = replace(SHIFTED, ratio=1.6, floor=1.29)
    clear = replace(SHIFTED, name="clear", ratio=1.5, floor=1.02)
    assert furthest([noisy, clear, QUIET]) is clear


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (xray(QUIET), "No BatchNorm layer stands out from the noise of batches."),
        (xray(), "The network has no BatchNorm layer."),
        (xray(skipped=(Skipped("bn", "is frozen"),)), "No BatchNorm layer could be examined."),
        (xray(replace(QUIET, floor=NAN)), "A shift cannot be told from noise: give two batches or more, of channels "
         "whose values vary."),
    ],
    ids=["quiet", "no BatchNorm", "all left out", "one batch"],
)  # fmt: skip
def test_where_nothing_is_to_be_done_the_advice_says_why(found: XRay, advice: str):
    assert found.advice == advice


def test_the_table():
    shown = (QUIET, replace(SHIFTED, closed_form=1.301, channels=256, after=replace(SIDE, dead=3 / 256)))
    found = xray(*shown, accuracy=0.004, loss=0.0123, skipped=(Skipped("aux.bn", "is not called in evaluation"),))
    assert str(found).splitlines() == [
        "X-ray of 2 BatchNorm layers, 2,048 images a pass",
        "shift: variance in training against evaluation, 1 is none; floor: by noise alone",
        "",
        "layer         channels   shift   floor  closed   noise  dead   Dropout",
        "layer1.bn            8   1.030   1.020       -   0.070     1",
        "layer3.0.bn2       256   1.320   1.020   1.301   0.070     3    before",
        "",
        "recalibration: accuracy +0.4 points, loss -0.0123 nats",
        "left out: aux.bn, which is not called in evaluation",
        "BatchNorm layer3.0.bn2 sees 1.31 times the variance in training: move the",
        "Dropout before it (drop) behind it, or recalibrate: +0.4 points.",
    ]


def test_every_line_has_80_characters_at_most():
    name = "features.denseblock4.denselayer16.norm2"
    after = replace(SIDE, dead=1.0)
    extreme = replace(SHIFTED, name=name, channels=9_999, ratio=1e12, floor=99.9996, closed_form=1e5, after=after)
    text = str(xray(extreme, *layers(3, ratio=NAN), skipped=(Skipped(name * 3, "is frozen"),)))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\n....denselayer16.norm2      9999 " in text
    assert "1e+12" in text
    assert text.isascii()


def test_missing_numbers_are_dashes():
    (row,) = [line for line in str(xray(replace(QUIET, ratio=NAN, floor=NAN))).splitlines() if "layer1.bn " in line]
    assert row.split() == ["layer1.bn", "8", "-", "-", "-", "0.070", "1"]


def test_dead_channels_are_counted():
    assert LAYER.dead == 1
    assert replace(LAYER, channels=16, after=replace(SIDE, dead=0.5)).dead == 8
