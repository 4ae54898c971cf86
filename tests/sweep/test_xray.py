"""`sweeper.xray`: the name, the value in a notebook, the table of pandas, the figure."""

from __future__ import annotations

import csv
import io
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import sweeper
from sweeper import xray
from sweeper.core.xray import XRay
from sweeper.sweep.xray import ModelXRay

LARGE = {"matplotlib", "mlflow", "numpy", "optuna", "pandas", "torch"}
NAMES = """
import sys
import sweeper
print(sweeper.__version__, *(name for name in sys.modules if "." not in name))
"""


@pytest.fixture(scope="module")
def found() -> ModelXRay:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.4), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    return xray(model, [torch.randn(16, 3, 8, 8) for _ in range(4)])


def test_the_package_imports_nothing_large(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", NAMES], cwd=tmp_path, capture_output=True, text=True, check=True)
    version, *modules = done.stdout.split()
    assert version == sweeper.__version__
    assert LARGE & set(modules) == set()


def test_the_name_is_the_function_and_other_names_are_missing():
    assert sweeper.xray is xray
    assert callable(xray)
    with pytest.raises(AttributeError, match="module 'sweeper' has no attribute 'nothing'"):
        _ = sweeper.nothing  # type: ignore[attr-defined]


def test_in_a_notebook_the_value_shows_its_table(found: ModelXRay):
    assert repr(found) == str(found)
    assert str(found).startswith("X-ray of 2 BatchNorm layers, 64 images a pass\n")
    assert str(found).splitlines()[-1].endswith(".")


def test_the_value_can_be_kept(found: ModelXRay):
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, XRay)
    assert again.json() == found.json()


def test_the_frame_has_the_columns_of_the_file_and_the_names_of_dropout(found: ModelXRay):
    frame = found.to_frame()
    rows = list(csv.DictReader(io.StringIO(found.csv().decode())))
    assert list(frame.columns) == [*rows[0], "dropout", "earlier"]
    assert frame["layer"].tolist() == ["2", "4"]
    assert frame["dropout"].tolist() == ["1", ""]
    assert frame["earlier"].tolist() == ["1", "1"]
    assert frame["ratio"].tolist() == [layer.ratio for layer in found.layers]
    assert math.isnan(frame["closed_form"][1])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_the_figure_shows_the_layers_in_their_order(found: ModelXRay, tmp_path: Path):
    figure = found.plot("mine")
    (axes,) = figure.axes
    assert texts(figure)[0] == "mine"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "4"]
    markers = {line.get_marker(): [] for line in axes.lines}
    for line in axes.lines:
        markers[line.get_marker()].append(line.get_xdata()[0])
    assert markers["o"] == pytest.approx([layer.ratio for layer in found.layers], rel=1e-5)
    assert markers["D"][0] == pytest.approx(found.layers[0].closed_form, rel=1e-5)
    floors = [max(bar.get_paths()[0].vertices[:, 0]) for bar in axes.collections]
    assert floors == pytest.approx([layer.floor for layer in found.layers], rel=1e-5)
    figure.savefig(tmp_path / "xray.png")
    assert (tmp_path / "xray.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [0, 1, 60])
def test_the_figure_grows_with_the_number_of_layers(found: ModelXRay, count: int, tmp_path: Path):
    figure = ModelXRay(found.layers[:1] * count, 64, math.nan, math.nan).plot()
    figure.savefig(tmp_path / "xray.png")
    rows: Any = [axes.get_yticks() for axes in figure.axes]
    assert sum(map(len, rows)) == count
    assert figure.get_figheight() == pytest.approx(max(3.0, 1.9 + 0.24 * count))
