"""`sweeper.advise` from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeper.advice.result import Advice
from sweeper.core.config import Placement, RunConfig
from sweeper.core.errors import UsageError
from sweeper.core.text import parse_duration
from sweeper.sweep.api import environment, interruptible

__all__ = ["advise"]


def advise(
    base: RunConfig,
    *,
    name: str | None = None,
    budget: str | float = "1h",
    trainings: int | None = None,
    epochs: int | None = None,
    placements: Sequence[str] = (),
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
    engine: str = "auto",
    workers: int | None = 1,
    test: bool = True,
    register: str | None = None,
) -> Advice:
    """Compare the placements of BatchNorm and Dropout in the network of `base`, on its images.

    Each placement gets its own rates and learning rate, and is compared on fresh seeds. An earlier call with the same
    settings is continued, with more time if `budget` or `trainings` is larger.

    Args:
        base: network, images and recipe, for example `sweeper.experiment(6)`.
        name: of the advice; by default made from network and images.
        budget: time for all runs: seconds, or a string such as "15m".
        trainings: number of runs, instead of `budget`.
        epochs: per run; by default until the plain network overfits, at most 30.
        placements: to compare; by default all that the network supports.
        home: as for `sweeper.train`.
        tracking_uri: as for `sweeper.train`; but not `none`, as it needs recorded runs.
        experiment_name: as for `sweeper.train`.
        data_dir: as for `sweeper.train`.
        device: as for `sweeper.train`.
        precision: as for `sweeper.train`.
        progress: as for `sweeper.train`.
        engine: as for `sweeper.optimize`.
        workers: as for `sweeper.optimize`.
        test: retrain the recommended configuration, and evaluate it once on the test images.
        register: name of the MLflow model to register the retrained configuration as.

    Returns:
        The answer: `ranking()` is a DataFrame, `answers` are sentences, `configuration` is the recommended one.

    Raises:
        UsageError, DataError: an argument is wrong, or there is too little time.
        StudyIncomplete: runs failed.
    """
    from sweeper.advice.advise import advise, resolve
    from sweeper.advice.work import Asked, usual_name
    from sweeper.engine.choice import EngineChoice
    from sweeper.sweep.options import start_workers

    config = base.derive(split="holdout", folds=0)
    wanted = tuple(Placement(each) for each in placements)
    asked = Asked(
        config, name or usual_name(config, base.dataset), _seconds(budget), trainings, epochs, wanted,
        dataset=base.dataset, device=device, precision=precision,
        engine=EngineChoice(engine, workers), test=test, register=register,
    )  # fmt: skip
    env = environment(home, tracking_uri, experiment_name, data_dir=data_dir, progress=progress)
    start_workers(asked.engine, device)
    with interruptible():
        return advise(env, resolve(env, asked))


def _seconds(budget: str | float) -> float:
    try:
        return parse_duration(budget) if isinstance(budget, str) else budget
    except ValueError as error:
        raise UsageError(f"budget={error}") from None
