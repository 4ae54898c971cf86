"""How long the runs of a plan will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Environment
from sweeper.core.networks import multiply_adds
from sweeper.core.text import counted
from sweeper.data.fashion import Manifest
from sweeper.replication.plan import Planned, _images, _kind
from sweeper.replication.runs import COMPLETE
from sweeper.tracking.base import THREADS_TAG
from sweeper.tracking.reading import read_events

# Seconds of an image's training are (OVERHEAD + multiply-adds) / SPEED: what docs/log.md has of the medium and the
# large network on 2 cores in fp32 fits it. Its evaluation costs a third.
OVERHEAD: Final = 5e6
SPEED: Final = 2.05e10  # a second and core


def cost(config: RunConfig, manifest: Manifest) -> float:
    """Work of a run on the split `test`, in multiply-adds of training; only ratios of costs have a meaning."""
    train = config.train_images or _images(manifest)
    judged = manifest.test[1].shape[0]
    images = train + (judged + min(judged, train)) / 3
    return config.epochs * images * (OVERHEAD + multiply_adds(config.model))


def forecast(env: Environment, runs: Sequence[Planned], manifest: Manifest) -> tuple[float | None, str]:
    """Seconds that the missing runs will take on all cores, and the basis of the estimate."""
    missing = sum(cost(run.config, manifest) for run in runs if run.state is None)
    recorded = [run for run in runs if run.state == COMPLETE]
    timed = [(cost(run.config, manifest), _core_seconds(env.journal / run.folder)) for run in recorded]
    if timed:
        pace = sum(work for work, _ in timed) / sum(seconds for _, seconds in timed)
        return missing / (pace * cores()), f"at the pace of the {counted(len(timed), 'recorded run')}"
    if any(_kind(run.config.device) != "cpu" for run in runs):
        return None, "no run on this kind of device is recorded to estimate from"
    return missing / (SPEED * cores()), f"at {SPEED / 1e9:.1f} G multiply-adds a second and core, as in docs/log.md"


def _core_seconds(folder: Path) -> float:
    """Core seconds of a run: from its last start to its end, times its threads."""
    events = read_events(folder)
    start = [e for e in events if e["event"] == "start"][-1]
    return float((events[-1]["time"] - start["time"]) / 1000 * int(start["tags"].get(THREADS_TAG, 1)))
