"""Read what the evaluation of a champion has recorded."""

from __future__ import annotations

from sweeper.core.environment import Environment
from sweeper.core.intervals import with_interval
from sweeper.tracking.reading import finished_of


def recorded_champions(env: Environment, study: str, uid: str) -> dict[int, dict[str, float]]:
    """Return the test metrics of a study's champions, with the accuracy's interval, by the number of their trial, the
    latest one last."""
    found = [run for run in finished_of(env.journal / study, uid, "champion", env.warn) if run.which.isdecimal()]
    return {
        int(run.which): with_interval(run.metrics, run.val_images) for run in sorted(found, key=lambda run: run.time)
    }
