"""The report of the reproduction in MLflow."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeper.core.config import RunConfig
from sweeper.core.environment import EXPERIMENT
from sweeper.core.errors import Interrupted
from sweeper.replication import report_record
from sweeper.replication.articles.learnopencv import PROTOCOLS
from sweeper.replication.claims.looks import fingerprint
from sweeper.replication.verify import report
from sweeper.tracking.base import FINISHED
from tests.replication.place import TINY, Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def recorded(place: Place, kind: str) -> tuple[MlflowClient, list[Run]]:
    """The runs of one kind in the store."""
    client = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id], f"tags.`sweeper.kind` = '{kind}'")


def test_runs_and_report_arrive_once_with_the_first_command_that_has_a_store(
    place: Place, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report_record, "report", report)
    monkeypatch.setitem(PROTOCOLS, "quick", replace(TINY, epochs=2))  # claims on the course of a training need two
    place.reproduce(1, seeds=1)
    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    for _ in range(2):
        place.reproduce(1, seeds=2)
    client, runs = recorded(place, "run")
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("exp1 s0", "FINISHED"), ("exp1 s1", "FINISHED"),
    ]  # fmt: skip
    assert {run.data.tags["sweeper.arm"] for run in runs} == {"exp1"}
    assert RunConfig.from_params(runs[0].data.params).train_images == 600
    assert {run.run_id for run in place.runs()["exp1"]} == {run.info.run_id for run in runs}
    _, (summary,) = recorded(place, "study")
    assert summary.info.status == "FINISHED"
    assert summary.data.tags["sweeper.study"] == "reproduce-quick"
    assert summary.data.metrics == {"study/complete": 2, "study/diverged": 0}
    artifacts = {file.path for file in client.list_artifacts(summary.info.run_id)}
    assert artifacts == {"report.html", "figures-4-to-11.png"}
    page = Path(client.download_artifacts(summary.info.run_id, "report.html", str(tmp_path))).read_text()
    assert "exp1" in page
    assert "Verdicts" in page


@pytest.mark.parametrize("left", ["nothing", "no end", "other runs"])
def test_a_report_that_was_not_recorded_is_recorded_by_the_next_command(
    place: Place, left: str, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: Any) -> bytes:
        raise Interrupted(signal.SIGINT)

    if left == "nothing":
        with monkeypatch.context() as drawing:
            drawing.setattr(report_record, "report", interrupt)
            with pytest.raises(Interrupted):
                place.reproduce(1, seeds=2)
        assert place.events("study") == []
        assert place.warned == ["the reproduction was interrupted. Run the same command again to continue it."]
    else:
        place.reproduce(1, seeds=1 if left == "other runs" else 2)
    if left == "no end":  # as after a kill
        path = place.root / "study/events.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    if left == "other runs":
        place.reproduce(1, seeds=2)
    assert place.reproduce(1, seeds=2)["added"] == 0
    events = place.events("study")
    assert (events[-1]["status"], events[-1]["metrics"]["study/complete"]) == (FINISHED, 2)
    assert events[-1]["tags"]["sweeper.fingerprint"] == fingerprint(place.runs())
    place.reproduce(1, seeds=2)
    assert place.events("study") == events  # it is there
