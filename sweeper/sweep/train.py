"""Train one configuration."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

from sweeper.core.cores import cores
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import TrainingError
from sweeper.core.trial import Trial
from sweeper.data.splits import load
from sweeper.sweep.choose import Chosen
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Fixed
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FAILED, RunInfo
from sweeper.tracking.fetching import run_id_of


def train_one(env: Environment, chosen: Chosen, run_id: str | None) -> dict[str, Any]:
    """Train one configuration: a sweep of one. Joins the MLflow run `run_id`, if one is given.

    Returns:
        What `--json` prints: the run, its folder, and its final metrics.

    Raises:
        Diverged, TrainingError: it could not be trained to its end.
    """
    from sweeper.engine.serial import SerialEngine
    from sweeper.training.images import Data

    images = load(chosen.config, chosen.folder)
    key = uuid.uuid4().hex  # of every attempt
    folder = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{key[:6]}"

    def describe(trial: Trial) -> RunInfo:
        name = f"exp{trial.config.experiment} seed{trial.config.seed}"
        return replace(
            describe_run(chosen, trial.config, images, kind="run", threads=cores()),
            key=key, name=name, folder=folder, run_id=run_id,
        )  # fmt: skip

    source, view = Fixed([chosen.config]), make_view(Progress(target=1, unit="run"), json_output=env.json_output)
    with Signals() as signals, tracking(env, signals) as tracker:
        tracker.reconcile("runs")
        engine = SerialEngine([Data.from_arrays(split) for split in images], cores())
        try:
            driver = Driver(source, engine, tracker, describe, view, keep_results=True, signals=signals,
                            diverged=FAILED)  # fmt: skip
            outcome = driver.run(1)
        finally:
            view.close()
            engine.close()
    if source.outcomes:
        raise TrainingError(source.outcomes[0])
    return {
        "run_id": run_id_of(env.journal, folder, env.tracking_uri) if env.tracking_uri not in (NONE, OFFLINE) else None,
        "journal": None if env.tracking_uri == NONE else str(env.journal / folder),
        "config": chosen.config.model_dump(mode="json"),
        "metrics": outcome.results[0].metrics(),
        "history_sha256": outcome.results[0].history_sha256,
        "weights_sha256": outcome.results[0].weights_sha256,
    }
