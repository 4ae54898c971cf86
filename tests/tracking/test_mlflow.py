from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import ServiceUnreachable, SweeperError
from sweeper.tracking import mlflow, patience
from sweeper.tracking.base import FINISHED
from sweeper.tracking.fetching import run_id_of
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import read_events
from tests.faults.tools.proxy import Proxy
from tests.support.refusals import refusal
from tests.support.tracked import LONG, Home, Quiet, info, listening, write

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def test_an_outage_costs_nothing_but_a_warning(
    tmp_path: Path, make_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    server, warned = make_server(), threading.Event()
    home = Home(tmp_path, server.uri, [])

    def warn(message: str) -> None:
        home.warned.append(message)
        warned.set()

    with home.tracker(warn) as tracker:
        assert warned.wait(LONG)  # the server is away
        write(tracker.start(info()))
        tracker.check()
        assert not tracker.flush(0.0)
        assert [e["event"] for e in read_events(home.journal / "demo/k")] == ["start", *["epoch"] * 4, "end"]
        assert ["does not answer" in message for message in home.warned] == [True]
        server.start()
        assert tracker.flush(LONG)
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert ["does not answer" in message for message in home.warned] == [True, False]
    server.stop()


def test_sync_carries_what_was_written_without_a_server_and_nothing_twice(home: Home) -> None:
    offline = JournalTracker(home.journal)
    write(offline.start(info("one")))
    write(offline.start(info("two")), (1, 2), end=False)
    assert (home.sync(), home.sync()) == (2, 0)
    assert home.steps() == {"one": [1, 2, 3, 4], "two": [1, 2]}
    write(offline.start(info("two")))
    assert (home.sync(), home.sync()) == (1, 0)
    assert home.steps() == {"one": [1, 2, 3, 4], "two": [1, 2, 3, 4]}
    assert home.warned == []


def test_sync_with_a_server_that_is_away_says_so_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path, "http://127.0.0.1:1", [])
    write(JournalTracker(home.journal).start(info()))
    assert "does not answer" in refusal(home.sync, ServiceUnreachable)


def test_sync_does_not_wait_for_ever_for_a_server_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving(Quiet):
        asked = 0

        def answer(self) -> None:
            Leaving.asked += 1
            self.reply(200 if Leaving.asked == 1 else 503, b"{}")

    monkeypatch.setattr(mlflow, "SYNC_PATIENCE", 0.3)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    (tmp_path / "journal").mkdir()
    with listening(Leaving) as uri:
        message = refusal(Home(tmp_path, uri, []).sync, ServiceUnreachable)
    assert "stopped answering" in message


def test_a_damaged_run_does_not_hold_up_the_others(home: Home) -> None:
    offline = JournalTracker(home.journal)
    for key in ("bad", "good"):
        write(offline.start(info(key)))
    events = home.journal / "demo/bad/events.jsonl"
    events.write_bytes(events.read_bytes().replace(b'{"event": "epoch"', b'{"event" "epoch"', 1))
    damaged = (
        f"{events}: line 2 is damaged (Invalid JSON: expected `:` at line 1 column 10). Restore the file from a copy, "
        "or move its folder away."
    )
    with home.tracker() as tracker:
        tracker.reconcile("demo")
        tracker.catch_up("demo")
        assert tracker.flush(LONG)
    assert home.steps() == {"good": [1, 2, 3, 4]}
    assert home.warned == [damaged]
    assert "uploaded 0 runs. 1 record left out" in refusal(home.sync, SweeperError)
    assert home.warned == [damaged] * 2


def test_a_run_whose_end_did_not_arrive_before_its_process_was_gone_is_ended_by_the_next_one(home: Home) -> None:
    with home.tracker() as tracker:
        log = tracker.start(info("ours"))
        assert tracker.flush(LONG)
    write(log)  # as by a process whose uploader is gone
    write(JournalTracker(home.journal).start(info("offline")))
    with home.tracker() as tracker:
        tracker.reconcile("demo")
        assert tracker.flush(LONG)
    assert home.steps() == {"ours": [1, 2, 3, 4]}
    run_id = run_id_of(home.journal, "demo/ours", home.uri)
    assert tracker.connection.client.get_run(run_id).info.status == FINISHED


def test_a_new_process_carries_what_an_earlier_one_left_of_the_same_study(home: Home) -> None:
    offline = JournalTracker(home.journal)
    write(offline.start(info("left")))
    with home.tracker() as tracker:
        tracker.catch_up("demo")
        assert tracker.flush(LONG)
        tracker.catch_up("demo")
        tracker.catch_up("other")
        assert tracker.flush(0.0)
    assert home.steps() == {"left": [1, 2, 3, 4]}


def test_a_run_that_mlflow_refuses_is_reported_once_and_does_not_hold_up_the_others(home: Home) -> None:
    with home.tracker() as tracker:
        good = info("good")
        bad = tracker.start(replace(info("bad"), dataset={**good.dataset, "source": "x" * 70_000}))
        write(bad, (1,), end=False)
        assert not tracker.flush(LONG)
        write(bad, (2, 3, 4))
        write(tracker.start(good))
        assert not tracker.flush(LONG)
        assert tracker.close(LONG) == 1
    (said,) = home.warned
    assert "demo/bad: MLflow refuses this run" in said
    assert "maximum length" in said
    assert len(read_events(home.journal / "demo/bad")) == 6
    write(JournalTracker(home.journal).start(info("later")))
    assert "uploaded 1 run. MLflow refused 1" in refusal(home.sync, SweeperError)
    assert home.steps() == {"bad": [], "good": [1, 2, 3, 4], "later": [1, 2, 3, 4]}


def test_a_run_that_mlflow_run_made_and_the_store_lost_is_made_again(home: Home) -> None:
    write(JournalTracker(home.journal).start(info(run_id=uuid.uuid4().hex)))
    assert (home.sync(), home.sync()) == (1, 0)
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert home.warned == []


def test_a_file_that_is_refused_for_good_holds_up_no_other_run(tmp_path: Path, mlflow_server: Any) -> None:
    proxy = Proxy(int(mlflow_server.uri.rpartition(":")[2]))
    proxy.too_large = re.compile(rb"PUT \S+/large\.bin ")
    home = Home(tmp_path, f"http://127.0.0.1:{proxy.port}", [])
    bad, good = f"bad-{uuid.uuid4().hex}", f"good-{uuid.uuid4().hex}"  # on a server that is not ours alone
    with home.tracker() as tracker:
        log = tracker.start(info(bad))
        log.artifact("large.bin", b"x" * 100_000)
        write(log)
        write(tracker.start(info(good)))
        assert not tracker.flush(LONG)
        assert tracker.close(LONG) == 1
    (said,) = home.warned
    assert f"{bad}: MLflow refuses this run (413" in said
    assert (finished(home, bad), finished(home, good)) == (True, True)  # a file holds back no end
    run_id = run_id_of(home.journal, f"demo/{bad}", home.uri)
    assert run_id
    assert "large.bin" not in {file.path for file in home.client().list_artifacts(run_id)}

    assert "MLflow refused 1" in refusal(home.sync, SweeperError)
    assert home.warned == [said] * 2
    proxy.too_large = None
    assert home.sync() == 1
    assert "large.bin" in {file.path for file in home.client().list_artifacts(run_id)}
    proxy.cut()


def finished(home: Home, key: str) -> bool:
    """Whether MLflow has the run, and its end."""
    run_id = run_id_of(home.journal, f"demo/{key}", home.uri)
    return bool(run_id and home.client().get_run(run_id).info.status == FINISHED)
