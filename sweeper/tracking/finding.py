"""Find the run in MLflow that belongs to a folder of the journal, by asking the store rather than trusting our records.

A run belongs to a folder if the folder has every point of the run. We identify a point by its step and time, so a
trial trained twice, as in two copies of a journal, never shares a run once its copies differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sweeper.tracking.base import FINISHED, KILLED
from sweeper.tracking.fetching import KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DELETED: Final = "deleted"  # MLflow's word, of a run's lifecycle
MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
MOST_RUNS: Final = 100  # with one key: one for each copy of the journal

Events = list[dict[str, Any]]
Point = tuple[str, int, int]  # the metric's name, its step, and its time in milliseconds


class Found(NamedTuple):
    """The run of a folder, and how many of the folder's events it has."""

    run: Run | None  # None if it is still to be made
    events: int
    other: str | None = None  # a run with other results of the same trial

    @property
    def deleted(self) -> bool:
        """True if the run was deleted in MLflow, which can restore it."""
        return self.run is not None and self.run.info.lifecycle_stage == DELETED


def find_run(client: MlflowClient, experiment_id: str, events: Events, noted: str | None, sent: int) -> Found:
    """Return the run of the folder with these events, of which `sent` are noted as uploaded to the run `noted`.

    It is the run that `mlflow run` made for the last start, or the noted one, or one that began with the folder. If the
    store lacks points that were sent, as after an older database was restored, the run has none of the events.
    """
    starts = [event for event in events if event["event"] == "start"]
    joined, begun = starts[-1]["run_id"], {start["time"] for start in starts}
    names, other = _probes(events), None
    ours = _points(events, names)
    for run in _candidates(client, experiment_id, events[0]["key"], joined, noted):
        run_id, known = run.info.run_id, run.info.run_id in (joined, noted)
        if known or run.info.start_time in begun:
            stored = {(n, m.step, m.timestamp) for n in names for m in client.get_metric_history(run_id, n)}
            if _outlived(run, events) and ours <= stored:
                return Found(run, len(events))
            if stored <= ours:
                lost = run_id == noted and not _points(events[:sent], names) <= stored
                return Found(run, sent if known and not lost else 0)
        if run.info.lifecycle_stage != DELETED:
            other = run_id
    return Found(None, 0, other)


def _candidates(
    client: MlflowClient, experiment_id: str, key: str, joined: str | None, noted: str | None
) -> Iterator[Run]:
    """Yield the runs with these ids, then those with the key, the deleted ones last."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    known = list(dict.fromkeys(run_id for run_id in (joined, noted) if run_id))
    for run_id in known:
        try:
            yield client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != MISSING:
                raise
    named = f"tags.`{KEY_TAG}` = '{key}'"
    found = client.search_runs([experiment_id], named, run_view_type=ViewType.ALL, max_results=MOST_RUNS)
    yield from (run for run in found if run.info.lifecycle_stage != DELETED and run.info.run_id not in known)
    yield from (run for run in found if run.info.lifecycle_stage == DELETED and run.info.run_id not in known)


def _probes(events: Events) -> list[str]:
    """Return a metric of the epochs and one of the ends. The first of an event is sent first."""
    of_kind = ([e for e in events if e["event"] == kind and e["metrics"]] for kind in ("epoch", "end"))
    return list(dict.fromkeys(next(iter(found[-1]["metrics"])) for found in of_kind if found))


def _points(events: Events, names: list[str]) -> set[Point]:
    return {(n, e.get("step", 0), e["time"]) for e in events for n in names if n in e.get("metrics", {})}


def _outlived(run: Run, events: Events) -> bool:
    """Return True if the run finished after all: the folder is an older copy, in which it was ended as killed."""
    last = events[-1]
    return bool(last["event"] == "end" and last["status"] == KILLED and run.info.status == FINISHED)
