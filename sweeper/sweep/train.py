"""Train one configuration."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import TrainingError
from sweeper.core.results import TrainResult
from sweeper.core.trial import Trial
from sweeper.data.images import ImageSource
from sweeper.data.splits import load
from sweeper.sweep.choose import choose
from sweeper.sweep.describe import describe_run
from sweeper.sweep.driver import Driver
from sweeper.sweep.networks import check_networks
from sweeper.sweep.progress import Progress, make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.source import Listed
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FAILED, RunInfo
from sweeper.tracking.fetching import run_id_of


@dataclass(frozen=True)
class Trained:
    """A finished training: its result, its folder in the journal, and its run in MLflow, if it has them."""

    config: RunConfig
    result: TrainResult
    source: ImageSource
    journal: str | None
    run_id: str | None

    def plain(self) -> dict[str, Any]:
        """Return the JSON that `--json` prints."""
        return {
            "run_id": self.run_id,
            "journal": self.journal,
            "config": self.config.model_dump(mode="json"),
            "metrics": self.result.metrics(),
            "history_sha256": self.result.history_sha256,
            "weights_sha256": self.result.weights_sha256,
        }


def train_one(
    env: Environment,
    config: RunConfig,
    run_id: str | None = None,
    *,
    dataset: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    source: ImageSource | None = None,
    system_metrics: bool = False,
) -> Trained:
    """Train one configuration, as a sweep of one trial. If `run_id` is given, record to that MLflow run.

    `source` is the data set, if it has been read already. With `system_metrics`, the load of this machine is recorded
    each epoch.

    Raises:
        ConfigError, DataError: a value is wrong, or the data set is missing; nothing was created.
        TrainingError: it could not be trained to its end.
    """
    from sweeper.engine.serial import SerialEngine
    from sweeper.training.images import Data

    chosen = choose(env, config, dataset, device, precision, source)
    images = load(chosen.config, chosen.source)
    check_networks([chosen.config], chosen.source.spec)
    key = uuid.uuid4().hex  # of every attempt
    folder = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{key[:6]}"

    def describe(trial: Trial) -> RunInfo:
        info = describe_run(chosen, trial.config, images, kind="run", threads=cores())
        name = f"exp{trial.config.experiment} seed{trial.config.seed}"
        return replace(info, key=key, name=name, folder=folder, run_id=run_id)

    trials = Listed([Trial(0, chosen.config)])
    view = make_view(Progress(target=1, unit="run"), env)
    with Signals() as signals, tracking(env, signals, system_metrics=system_metrics) as tracker:
        tracker.reconcile("runs")
        engine = SerialEngine([Data.from_arrays(split) for split in images], cores())
        try:
            driver = Driver(trials, engine, tracker, describe, view, keep_results=True, signals=signals,
                            diverged=FAILED)  # fmt: skip
            results = driver.run(1)
        finally:
            view.close()
            engine.close()
    if reasons := trials.failed | trials.diverged:
        raise TrainingError(reasons[0])
    uploaded = env.tracking_uri not in (NONE, OFFLINE)
    return Trained(
        chosen.config,
        results[0],
        chosen.source,
        journal=None if env.tracking_uri == NONE else str(env.journal / folder),
        run_id=run_id_of(env.journal, folder, env.tracking_uri) if uploaded else None,
    )
