from __future__ import annotations

import csv
import io
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.tracking.reading import EVENTS, as_csv, history, read_events, run_folders

epochs = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5)


@settings(deadline=None)
@given(losses=epochs, data=st.data())
def test_the_history_has_every_epoch_once_in_its_order_with_its_exact_values(
    losses: list[float], data: st.DataObject
) -> None:
    events = [{"event": "epoch", "step": i, "metrics": {"loss": loss}} for i, loss in enumerate(losses, 1)]
    shuffled = data.draw(st.permutations([*events, {"event": "start"}, {"event": "end", "metrics": {"loss": 0.0}}]))
    found = history(shuffled)
    assert found == [{"epoch": i, "loss": loss} for i, loss in enumerate(losses, 1)]
    rows = csv.DictReader(io.StringIO(as_csv(found).decode()))
    assert [(int(row["epoch"]), float(row["loss"])) for row in rows] == list(enumerate(losses, 1))


def test_every_run_below_a_folder_is_found_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("demo/0002", "demo/0001", "other/study"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / EVENTS).touch()
    (tmp_path / "demo" / "empty").mkdir()
    assert run_folders(tmp_path) == [tmp_path / "demo/0001", tmp_path / "demo/0002", tmp_path / "other/study"]
    assert run_folders(tmp_path / "demo") == [tmp_path / "demo/0001", tmp_path / "demo/0002"]


def test_a_folder_without_events_has_none(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []


def test_a_journal_without_a_folder_has_no_runs_and_nothing_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    assert run_folders(tmp_path / "none", said.append) == []
    assert said == []
