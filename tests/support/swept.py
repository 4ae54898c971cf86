"""Sweeps made by hand, for the tests of their report."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

from PIL import Image

from sweeper.report.sweep.rows import Champion, Sweep, SweptTrial
from sweeper.study.importance import Importance


def trial(number: int, value: float | None = 0.9, **fields: Any) -> SweptTrial:
    """A complete trial of three epochs, but for what `fields` say."""
    epochs = [
        {"epoch": float(e), "val/accuracy": (value or 0.1) - 0.01 * (3 - e), "val/loss": 1.0 / e} for e in (1, 2, 3)
    ]
    made = SweptTrial(number, "complete", value, 0.3, {"placement": "bn", "batch_size": 64}, epochs, 5.0, "", value)
    return made._replace(**fields)


def sweep(*trials: SweptTrial, **fields: Any) -> Sweep:
    began = dt.datetime(2026, 1, 2, 3, 4)
    made = Sweep("demo", {"model": "small", "dataset_sha256": "ab" * 32}, list(trials), [], None, {}, {}, began, began)
    return made._replace(**fields)


def searched(count: int = 12) -> list[SweptTrial]:
    """Trials over three placements, with rates where the placement has them."""
    names = ("bn", "dropout", "bn-dropout")
    rates: list[dict[str, Any]] = [
        {} if names[i % 3] == "bn" else {"conv_dropout": 0.02 * i, "head_dropout": 0.5 - 0.03 * i} for i in range(count)
    ]
    return [
        trial(i, 0.8 + 0.01 * i, params={"placement": names[i % 3], "batch_size": 2 ** (5 + i % 3), **rates[i]},
              seconds=10.0 - 0.1 * i)
        for i in range(count)
    ]  # fmt: skip


CHAMPION = Champion(
    3, {"test/accuracy": 0.8, "test/loss": 0.6, "test/ece": 0.02}, ["Coat", "Shirt"], [[7, 3], [1, 9]], None
)
IMPORTANCES = [Importance("batch_size", 0.6, 0.4, 0.9, 30), Importance("head_dropout", 0.3, 0.0, 0.5, 20)]


def picture(width: int, height: int) -> bytes:
    """A grey PNG."""
    stream = io.BytesIO()
    Image.new("L", (width, height), 200).save(stream, "PNG")
    return stream.getvalue()
