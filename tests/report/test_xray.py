"""The figure of an X-ray: whole for any network, and the tuples that it draws."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeper.core.xray import Activations, BatchNormLayer
from sweeper.report.run.xray import Row, figure, height, outline, shifts
from tests.core.test_xray import LAYER, NAN, XRAY, layers


def drawn(*shown: BatchNormLayer) -> bytes:
    return figure(json.loads(replace(XRAY, layers=shown).json()), "run")


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_it_is_a_figure_whatever_the_number_of_layers(count: int):
    with Image.open(io.BytesIO(drawn(*layers(count, closed_form=1.1)))) as image:
        assert (image.format, image.size) == ("PNG", (1500, 675))
        assert image.convert("RGB").getcolors(maxcolors=8) is None
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:4] == 255).all()
    assert (pixels[-4:] == 255).all()
    assert (pixels[:, -4:] == 255).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio": NAN, "signed": NAN, "spread": (NAN, NAN), "floor": NAN},
        {"before": Activations(NAN, NAN, 0.0, NAN, NAN, ()), "after": Activations(NAN, NAN, 0.0, NAN, NAN, ())},
        {"before": Activations(0.0, 0.0, 1.0, -0.5, 0.5, (0.0, 0.0, 1.0, 0.0))},
        {"ratio": 1.0, "spread": (1.0, 1.0), "floor": 1.0},
        {"ratio": 1e9, "spread": (1.0, 1e12)},
    ],
    ids=["no ratio", "not finite", "one value", "no shift", "huge"],
)
def test_it_can_show_what_is_missing_or_extreme(changes: dict[str, Any]):
    assert drawn(*layers(1), replace(LAYER, **changes)).startswith(b"\x89PNG")


def test_its_left_half_shows_the_layers_in_their_order():
    found = json.loads(replace(XRAY, layers=layers(3, closed_form=1.1)).json())["layers"]
    shown = shifts(found)
    assert [row.position for row in shown] == ["after conv 1", "after conv 2", "after conv 3"]
    assert shown[0] == Row("after conv 1", 1.2, (1.1, 1.3), 1.02, 1.1, -0.18)
    assert math.isnan(shifts(json.loads(XRAY.json())["layers"])[0].closed_form)


def test_a_histogram_is_a_density():
    density, edges = outline(json.loads(XRAY.json())["layers"][0]["before"])
    assert list(edges) == [-4, -2, 0, 2, 4]
    assert float((density * 2).sum()) == pytest.approx(1)


def test_a_spike_does_not_press_the_rest_of_a_histogram_into_a_line():
    smooth = [1.0, 2, 3, 4, 5, 4, 3, 2, 1, 1]
    assert height(smooth) == pytest.approx(1.08 * 5)
    assert height([100, *smooth]) == pytest.approx(1.08 * 9)
    assert height([100, 0, 0, 0, 0]) == pytest.approx(108)
