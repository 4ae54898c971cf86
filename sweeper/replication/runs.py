"""The runs of the reproduction as its journals record them: from folders to tuples.

    journal/reproduce-quick/exp6/seed-3/events.jsonl

Unfinished runs, runs of an earlier configuration, and foreign folders are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError, SweeperError
from sweeper.replication.article import Reproduction
from sweeper.tracking.base import FINISHED, THREADS_TAG
from sweeper.tracking.reading import history, read_events

SEED: Final = re.compile(r"seed-(\d{1,9})")
COMPLETE, DIVERGED = "complete", "diverged"
MACHINE: Final = ("dataset", "dataset_sha256", "image_size", "device", "precision")  # fields that no arm decides
TEN: Final = 10  # classes of FashionMNIST


class Machine(NamedTuple):
    """The threads and hardware that an epoch's time depends on, as the journal names them."""

    threads: str
    hardware: str


class ArmRun(NamedTuple):
    """One finished run of one arm. Losses are in nats, accuracies in [0, 1], times in seconds."""

    arm: str
    seed: int
    state: str  # complete or diverged
    epochs: list[dict[str, float]]  # one entry for each epoch: its number under "epoch", and EpochResult.metrics()
    final: dict[str, float]  # metrics at the end: "final/…", "best/…"
    folder: Path
    history_sha256: str  # empty if the run diverged
    run_id: str | None  # in MLflow, if it was uploaded
    store: str = ""  # the MLflow store of `run_id`, as the uploader names it
    all_images: bool = True  # trained on all of FashionMNIST's 60,000; the embedded sample has fewer
    machines: frozenset[Machine] = frozenset()  # of its epochs; several if it was continued on another machine
    classes: int = TEN


class ArmSummary(NamedTuple):
    """The runs of one arm in a line. Means are over the seeds that are complete, of the last epoch."""

    arm: str
    complete: int
    diverged: int
    val_accuracy: float | None = None  # None without a complete run
    val_accuracy_sd: float | None = None  # sample standard deviation; None below two complete runs
    val_loss: float | None = None
    epoch_s: float | None = None  # median over the epochs of a run, mean over runs


def read_runs(root: Path, of: Reproduction) -> dict[str, list[ArmRun]]:
    """The finished runs of each arm in the journal at `root`, by seed; arms without one are absent."""
    found = {}
    for arm in of.select():
        folders = (root / of.folder_of(arm)).glob("seed-*")
        runs = [run for folder in folders if (run := read_run(folder, of, arm)) is not None]
        if runs:
            found[arm] = sorted(runs, key=lambda run: run.seed)
    return found


def no_runs(journal: Path, of: Reproduction) -> str:
    """Say that a journal has no finished run of a reproduction, and how to train them."""
    return f"{journal} holds no finished run of {of.words}. Run sweeper reproduce {of.options}."


def read_run(folder: Path, of: Reproduction, arm: str) -> ArmRun | None:
    """The run of `arm` in `folder`; None if there is none, or it has not finished, or has another configuration."""
    match = SEED.fullmatch(folder.name)
    events = _events(folder) if match else []
    if not match or (state := outcome(events)) is None:
        return None
    config = _config(events, of, arm, int(match[1]))
    if config is None:
        return None
    end = events[-1]
    run_id, store = _uploaded(folder)
    return ArmRun(
        arm, int(match[1]), state, history(events), end["metrics"], folder,
        history_sha256=end["tags"].get("sweeper.history_sha256", ""), run_id=run_id, store=store,
        all_images=config.dataset == "fashion-mnist" and config.train_images == 0, machines=_machines(events),
        classes=len(_profile(events[0]).get("classes", ())) or TEN,
    )  # fmt: skip


def complete(runs: Sequence[ArmRun]) -> list[ArmRun]:
    """The runs that did not diverge."""
    return [run for run in runs if run.state == COMPLETE]


def diverged(runs: Sequence[ArmRun]) -> int:
    """The number of runs that diverged."""
    return len(runs) - len(complete(runs))


def outcome(events: Sequence[Mapping[str, Any]]) -> str | None:
    """The outcome of a run: complete, diverged, or None if it has to be trained (again)."""
    if not events or events[-1]["event"] != "end" or events[-1]["status"] != FINISHED:
        return None
    return {"complete": COMPLETE, "pruned": DIVERGED}.get(events[-1]["tags"].get("sweeper.state", ""))


def _config(events: Sequence[Mapping[str, Any]], of: Reproduction, arm: str, seed: int) -> RunConfig | None:
    """The trained configuration; None if it differs from the arm's today in more than data set and machine."""
    try:
        trained = RunConfig.from_params(events[0]["params"])
    except ConfigError:  # written by a version with other fields
        return None
    given = trained.model_dump(include=set(MACHINE))
    if _has_fewer_images(events[0], of.train_images(arm)):
        given["train_images"] = 0
    return trained if trained.key == of.config(arm, seed, **given).key else None


def _has_fewer_images(start: Mapping[str, Any], wanted: int) -> bool:
    """Return True if a run was trained on all of a data set that has no more images than `wanted`, if that is known."""
    count = _profile(start).get("train_images", wanted)
    return bool(start["params"].get("train_images", "0") == "0" and count <= wanted)


def _profile(start: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers of a run's images, and its classes, as far as they are recorded."""
    profile: Mapping[str, Any] = (start.get("dataset") or {}).get("profile", {})
    return profile


def _events(folder: Path) -> list[dict[str, Any]]:
    try:
        events = read_events(folder)
    except (OSError, SweeperError):
        return []
    return events if events and events[0].get("event") == "start" else []  # else it is no journal


def _machines(events: Sequence[Mapping[str, Any]]) -> frozenset[Machine]:
    """The machines on which epochs were recorded."""
    found: set[Machine] = set()
    for event in events:
        if event["event"] == "start":
            tags = event["tags"]
            machine = Machine(str(tags.get(THREADS_TAG, "")), str(tags.get("sweeper.hardware", "")))
        elif event["event"] == "epoch":
            found.add(machine)
    return frozenset(found)


def _uploaded(folder: Path) -> tuple[str | None, str]:
    """The MLflow run that it was uploaded to, and the store."""
    try:
        state = json.loads((folder / "upload.json").read_bytes())
        return state["run_id"], state["store"]
    except (OSError, ValueError, KeyError):
        return None, ""


# --- circumstances ---------------------------------------------------------------------------------------


def starts(runs: Mapping[str, Sequence[ArmRun]]) -> list[dict[str, Any]]:
    """The first event of each run that has a journal: parameters, tags, data set."""
    found = (read_events(run.folder) for of_arm in runs.values() for run in of_arm)
    return [events[0] for events in found if events]


def each(starts: Sequence[Mapping[str, Any]], pick: Callable[[Mapping[str, Any]], str]) -> str:
    """The distinct values that `pick` returns, joined by slashes."""
    return " / ".join(sorted({value for start in starts if (value := pick(start))}))


def tag(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A function that returns a tag of a start event."""
    return lambda start: str(start["tags"].get(name, ""))


def circumstances(runs: Mapping[str, Sequence[ArmRun]]) -> dict[str, str]:
    """Data set, device, hardware, versions and commit, as recorded with the runs; empty where they are not."""
    recorded = starts(runs)
    picked = {
        "data set": tag("sweeper.dataset"),
        "images": images,
        "device": lambda start: f"{start['params'].get('device', '')} {start['params'].get('precision', '')}",
        "hardware": tag("sweeper.hardware"),
        "threads": tag(THREADS_TAG),
        "versions": tag("sweeper.versions"),
        "commit": lambda start: tag("mlflow.source.git.commit")(start)[:12],
    }
    return {name: each(recorded, pick) for name, pick in picked.items()}


def images(start: Mapping[str, Any]) -> str:
    """The number of images that a run was trained and judged on; empty if not recorded."""
    counts = _profile(start)
    if not {"train_images", "val_images"} <= counts.keys():
        return ""
    return f"trained on {counts['train_images']:,}, judged on {counts['val_images']:,}"


# --- in a table ----------------------------------------------------------------------------------------


def summarise(arm: str, runs: Sequence[ArmRun]) -> ArmSummary:
    """The runs of one arm in a line."""
    finished = complete(runs)
    if not finished:
        return ArmSummary(arm, 0, len(runs))
    accuracies = [run.final["final/val_accuracy"] for run in finished]
    return ArmSummary(
        arm=arm,
        complete=len(finished),
        diverged=diverged(runs),
        val_accuracy=fmean(accuracies),
        val_accuracy_sd=stdev(accuracies) if len(finished) > 1 else None,
        val_loss=fmean(run.final["final/val_loss"] for run in finished),
        epoch_s=fmean(median(epoch["time/epoch_s"] for epoch in run.epochs) for run in finished),
    )


def table(rows: Sequence[ArmSummary]) -> list[str]:
    """The summaries as lines of text with aligned columns, ASCII only."""
    head = ("arm", "seeds", "val accuracy", "sd", "val NLL", "s/epoch", "diverged")
    return aligned([head, *(_cells(row) for row in rows)], left=(0,))


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows as lines with columns of equal width: those in `left` are aligned left, all others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    forms = [f"{'<' if i in left else '>'}{width}" for i, width in enumerate(widths)]
    return ["  ".join(map(format, row, forms)).rstrip() for row in rows]


def _cells(row: ArmSummary) -> list[str]:
    values = ((row.val_accuracy, 4), (row.val_accuracy_sd, 4), (row.val_loss, 4), (row.epoch_s, 2))
    shown = ["-" if value is None else f"{value:.{digits}f}" for value, digits in values]
    return [row.arm, str(row.complete), *shown, str(row.diverged or "")]
