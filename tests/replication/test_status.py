"""`sweeper status` of a reproduction."""

from __future__ import annotations

from sweeper.replication.status import is_reproduction, show_status
from sweeper.tracking.base import RunInfo
from sweeper.tracking.journal import JournalTracker
from tests.replication.place import Place


def test_the_status_counts_the_runs_of_the_protocol_and_ranks_its_arms(place: Place):
    assert not is_reproduction(place.environment, "reproduce-quick")
    place.reproduce(1)
    place.said.clear()
    found = show_status(place.environment, "reproduce-quick")
    assert is_reproduction(place.environment, "reproduce-quick")
    assert found["finished"] == 2 < found["planned"]
    assert [(arm["arm"], arm["complete"]) for arm in found["ranking"]] == [("exp1", 2)]
    assert not found["driven"]
    assert place.said[0].startswith(f"reproduce-quick: not running, 2/{found['planned']} runs of the protocol finished")
    assert place.said[-1].startswith("exp1 ")


def test_of_an_article_that_is_not_ours_the_runs_are_counted(place: Place):
    tracker = JournalTracker(place.environment.journal)
    tracker.start(RunInfo("x/1", "run", {"epochs": "3"}, {}, "", "reproduce-mine-full/arm/seed-0")).end(
        "KILLED", {}, {}
    )
    found = show_status(place.environment, "reproduce-mine-full")
    assert (found["finished"], found["planned"], found["ranking"]) == (0, None, [])
    assert place.said == ["reproduce-mine-full: not running, 0 runs finished, 0s used", "  1 run interrupted"]
