"""Read what the evaluation of a champion has recorded."""

from __future__ import annotations

from sweeper.core.environment import Environment
from sweeper.core.intervals import with_interval
from sweeper.tracking.reading import finished_runs


def recorded_champions(env: Environment, study: str, uid: str) -> dict[int, dict[str, float]]:
    """Return the test metrics of a study's champions, with the accuracy's interval, by the number of their trial, the
    latest one last."""
    found = []
    for run in finished_runs(env.journal / study, "champion-*", env.warn):
        number = run.key.removeprefix(f"{uid}/champion/")
        if number.isdecimal():
            found.append((run.time, int(number), with_interval(run.metrics, run.val_images)))
    return {number: metrics for _, number, metrics in sorted(found, key=lambda each: each[0])}
