"""The lines that say where the results are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.environment import Environment
from sweeper.sweep.links import say_where


@pytest.mark.parametrize(
    ("shown", "link"),
    [("https://box.example", "https://box.example/#/experiments/7"), ("", "http://mlflow:5000/#/experiments/7")],
)
def test_a_link_begins_with_the_address_that_people_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, link: str
):
    monkeypatch.setattr("sweeper.tracking.fetching.ui_link", lambda base, *_: f"{base}/#/experiments/7")
    monkeypatch.setenv("SWEEPER_MLFLOW_URL", shown)
    said: list[str] = []
    say_where(Environment(tmp_path, "http://mlflow:5000", "", None, False, said.append, said.append))
    assert said == [f"view in MLflow: {link}"]
