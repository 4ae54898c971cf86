"""The X-ray as a value: its metrics and its files."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest

from sweeper.core.xray import Activations, BatchNormLayer, RunXRay, XRay

NAN = math.nan
SIDE = Activations(0.5, 1.25, 0.125, -4.0, 4.0, (0.1, 0.4, 0.4, 0.1))
LAYER = BatchNormLayer("1", "after conv 1", 8, 0, 1.2, -0.18, (1.1, 1.3), 1.02, NAN, 0.07, SIDE, SIDE)
XRAY = RunXRay((LAYER,), 512, 0.01, 0.02, 0.3, 0.6, 3, 0.25, 4, 0, seconds=0.5)


def layers(count: int, **changes: Any) -> tuple[BatchNormLayer, ...]:
    return tuple(replace(LAYER, name=str(i), position=f"after conv {i}", **changes) for i in range(1, count + 1))


def rows(xray: XRay) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(xray.csv().decode())))


def test_metrics_are_means_over_layers():
    two = replace(XRAY, layers=(LAYER, replace(LAYER, ratio=1.6, signed=-0.5, batch_noise=NAN)))
    assert two.metrics() == {
        "xray/variance_shift": pytest.approx(1.4),
        "xray/variance_shift_signed": pytest.approx(-0.34),
        "xray/batch_noise": 0.07,
        "xray/recalibration_gain_accuracy": 0.01,
        "xray/recalibration_gain_loss": 0.02,
        "xray/brier": 0.3,
        "xray/error_confidence": 0.6,
        "xray/onset": 3,
        "xray/grad_norm_cv": 0.25,
        "xray/spikes": 4,
        "xray/nonfinite_steps": 0,
    }


def test_what_is_not_finite_is_no_metric():
    found = replace(XRAY, layers=layers(2, ratio=NAN), grad_norm_cv=math.inf, error_confidence=NAN)
    absent = {"xray/variance_shift", "xray/grad_norm_cv", "xray/error_confidence"}
    assert XRAY.metrics().keys() - found.metrics().keys() == absent


def test_the_csv_file_has_a_row_a_layer_and_blanks_for_what_is_missing():
    first, second = rows(replace(XRAY, layers=(LAYER, replace(LAYER, name="5", closed_form=1.1875))))
    assert list(first.values()) == [
        "1", "after conv 1", "8", "0", "1.2", "-0.18", "1.1", "1.3", "1.02", "", "0.07",
        "0.5", "1.25", "0.125", "0.5", "1.25", "0.125",
    ]  # fmt: skip
    assert (second["layer"], second["closed_form"]) == ("5", "1.1875")


def test_the_json_file_holds_the_histograms_and_null_for_what_is_missing():
    found = json.loads(XRAY.json())
    assert found["layers"][0]["before"]["shares"] == [0.1, 0.4, 0.4, 0.1]
    assert found["layers"][0]["closed_form"] is None
    assert found["seconds"] == 0.5


def test_the_files_are_small():
    shares = tuple(1 / 48 + i / 1e9 for i in range(48))
    side = replace(SIDE, shares=shares)
    found = replace(XRAY, layers=layers(7, before=side, after=side))
    assert len(found.json()) < 20_000
    assert len(pickle.dumps(found)) < 20_000


def test_without_batch_norm_there_are_no_files():
    assert replace(XRAY, layers=()).files() == {}
    assert XRAY.files().keys() == {"diagnostics/variance_shift.csv", "diagnostics/xray.json"}


def test_two_xrays_that_took_different_times_are_equal():
    assert replace(XRAY, seconds=9.0) == XRAY
