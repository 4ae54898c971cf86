"""The load of the machine, as each epoch records it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sweeper.tracking.base import KILLED, RunInfo
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import read_events
from sweeper.tracking.system import SHORTEST, SystemMetrics


def test_the_load_has_the_names_that_mlflow_shows_and_its_units() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    theirs = CPUMonitor()
    theirs.collect_metrics()
    ours = SystemMetrics()()
    assert ours.keys() == {f"system/{name}" for name in theirs.aggregate_metrics()}
    assert 0 <= ours["system/cpu_utilization_percentage"] <= 100
    used, percent = (ours[f"system/system_memory_usage_{unit}"] for unit in ("megabytes", "percentage"))
    assert used / theirs.aggregate_metrics()["system_memory_usage_megabytes"] == pytest.approx(1, abs=0.5)
    assert 0 < percent < 100


def test_two_readings_close_together_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    load = SystemMetrics()
    first = load()
    assert load() is first
    now = SHORTEST
    assert load() is not first


def test_a_run_may_be_continued_with_and_without_it(tmp_path: Path) -> None:
    run = RunInfo("key", "run", {}, {}, "", "demo/0000")
    for step, measured in enumerate([{}, {"system/load": 0.5}, {}], 1):
        log = JournalTracker(tmp_path, measure=lambda measured=measured: measured).start(run)
        log.epoch(step, {"val/loss": 0.25})
        log.end(KILLED, {}, {})
    table = (tmp_path / "demo/0000/artifacts/curves/history.csv").read_text()
    assert table == "epoch,val/loss,system/load\n1,0.25,\n2,0.25,0.5\n3,0.25,\n"


def test_a_journal_records_what_is_measured_beside_each_epoch(tmp_path: Path) -> None:
    tracker = JournalTracker(tmp_path, measure=lambda: {"system/load": 0.5})
    tracker.start(RunInfo("key", "run", {}, {}, "", "demo/0000")).epoch(1, {"val/loss": 0.25})
    assert read_events(tmp_path / "demo/0000")[-1]["metrics"] == {"val/loss": 0.25, "system/load": 0.5}
