"""Read what the evaluation of a champion has recorded."""

from __future__ import annotations

from sweeper.core.environment import Environment
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_events


def recorded_metrics(env: Environment, folder: str, uid: str) -> dict[str, float] | None:
    """Return the test metrics of an earlier evaluation of the same study's champion."""
    events = read_events(env.journal / folder)
    if not events or not events[0]["key"].startswith(uid):
        return None
    ends = [event for event in events if event["event"] == "end" and event["status"] == FINISHED]
    return ends[-1]["metrics"] if ends else None
