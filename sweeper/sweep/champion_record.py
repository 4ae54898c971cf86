"""Read what the evaluation of a champion has recorded."""

from __future__ import annotations

from sweeper.core.environment import Environment
from sweeper.core.intervals import with_interval
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_events, val_images


def recorded_metrics(env: Environment, folder: str, uid: str) -> dict[str, float] | None:
    """Return the test metrics of an earlier evaluation of the same study's champion, with the accuracy's interval."""
    events = read_events(env.journal / folder)
    if not events or not events[0]["key"].startswith(uid):
        return None
    ends = [event for event in events if event["event"] == "end" and event["status"] == FINISHED]
    return with_interval(ends[-1]["metrics"], val_images(events)) if ends else None
