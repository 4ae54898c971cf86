from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from sweeper.sweep.tracker import FIGURES
from sweeper.tracking.base import FINISHED
from sweeper.tracking.fetching import run_id_of
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.upload import upload
from tests.support.tracked import EPOCHS, LONG, Home, info, write

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


class Flaky:
    """A client whose first call of one method fails: its request is lost, or the answer to it."""

    def __init__(self, client: Any, method: str, lost: str) -> None:
        self._client, self._method, self._lost = client, method, lost
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        if name != self._method or self.failed:
            return real

        def fail(*args: Any, **kwargs: Any) -> None:
            self.failed = True
            if self._lost == "answer":
                real(*args, **kwargs)
            raise ConnectionError("the connection was lost")

        return fail


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize(
    "method",
    ["search_runs", "create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"],
)
def test_whatever_is_lost_on_the_way_arrives_once_in_the_end(home: Home, method: str, lost: str) -> None:
    write(JournalTracker(home.journal).start(info()))
    connection = home.connection()
    connection.connect()
    flaky = Flaky(connection.client, method, lost)
    connection.client = flaky  # type: ignore[assignment]
    pauses: list[float] = []
    upload(connection, FIGURES, home.journal / "demo/k", pauses.append)
    assert flaky.failed
    assert len(pauses) == 1
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert home.warned == []  # one refusal is not worth a word
    run = flaky.get_run(run_id_of(home.journal, "demo/k", home.uri))
    assert (run.info.status, run.data.tags["sweeper.state"]) == (FINISHED, "complete")
    assert len(run.inputs.dataset_inputs) == 1


def test_the_pauses_between_tries_grow_to_a_limit_and_the_outage_is_reported_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(JournalTracker(home.journal).start(info()))
    connection = home.connection()
    connection.connect()
    real = connection.client.search_runs
    pauses: list[float] = []

    def away(*args: Any, **kwargs: Any) -> Any:
        if len(pauses) < 10:
            raise ConnectionError("refused")
        return real(*args, **kwargs)

    monkeypatch.setattr(connection.client, "search_runs", away)
    upload(connection, FIGURES, home.journal / "demo/k", pauses.append)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])
    assert ["does not answer" in message for message in home.warned] == [True, False]
    assert home.steps() == {"k": [1, 2, 3, 4]}


def test_the_values_of_an_end_that_another_attempt_followed_arrive_as_well(home: Home) -> None:
    journal = JournalTracker(home.journal)
    write(journal.start(info()))
    journal.start(info()).end(FINISHED, {}, {"sweeper.state": "complete"})  # before anything was sent
    assert home.sync() == 1
    run = home.client().get_run(run_id_of(home.journal, "demo/k", home.uri) or "")
    assert run.data.metrics["final/val_loss"] == 1 / len(EPOCHS)
    assert run.info.status == FINISHED


def test_files_of_a_new_attempt_survive_the_upload_of_the_last_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, go_on = threading.Event(), threading.Event()
    with home.tracker() as tracker:
        log = tracker.start(info())
        assert tracker.flush(LONG)
        client = tracker.connection.client
        real = client.set_terminated

        def slow(*args: Any) -> None:
            real(*args)
            ending.set()
            assert go_on.wait(LONG)

        monkeypatch.setattr(client, "set_terminated", slow)
        log.end("FAILED", {}, {})
        assert ending.wait(LONG)
        again = tracker.start(info())
        again.artifact("model/state.safetensors", b"weights")
        go_on.set()
        assert tracker.flush(LONG)
        again.end(FINISHED, {}, {})
        assert tracker.flush(LONG)
        run_id = run_id_of(home.journal, "demo/k", home.uri)
        assert "model" in [file.path for file in client.list_artifacts(run_id)]


def test_a_run_with_an_xray_gets_its_figure(home: Home, tmp_path: Path) -> None:
    """Drawn when the run is carried, from the file in the journal, so that no trial waits for it."""
    side = {"mean": 0.0, "variance": 1.0, "dead": 0.0, "low": -4.0, "high": 4.0, "shares": [0.25] * 4}
    layer = {"position": "after conv 1", "ratio": 1.2, "signed": -0.2, "spread": [1.1, 1.3], "floor": 1.02,
             "closed_form": None, "before": side, "after": side}  # fmt: skip
    log = JournalTracker(home.journal).start(info())
    log.artifact("diagnostics/xray.json", json.dumps({"layers": [layer]}).encode())
    write(log)
    assert home.sync() == 1
    (figure,) = home.folder.glob("mlartifacts/**/diagnostics/xray.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
