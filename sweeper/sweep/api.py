"""The Python API: train, optimize, load_study and replay, with the command line's names and defaults.

State is kept where the command line keeps it: in `home`, by default SWEEPER_HOME or the current folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sweeper.core.config import MODELS, RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import Interrupted, UsageError
from sweeper.core.experiments import experiment

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from sweeper.core.images import Array
    from sweeper.core.results import EpochResult
    from sweeper.data.images import ImageSource
    from sweeper.study.reading import StudyView
    from sweeper.study.rows import Ranked
    from sweeper.tracking.reading import Ended

__all__ = ["Replay", "Run", "Study", "experiment", "load_study", "optimize", "replay", "train"]

log: Final = logging.getLogger("sweeper")


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        config: the trained configuration.
        metrics: final values under their names in MLflow; accuracies in [0, 1], losses in nats.
        run_id: of the run in MLflow; None if it was not uploaded.
        folder: of the run in the journal; None if nothing was recorded.
    """

    config: RunConfig
    metrics: Mapping[str, float]
    run_id: str | None
    folder: Path | None
    _epochs: Sequence[EpochResult]
    _source: ImageSource
    _weights: Callable[[], Mapping[str, Array]]

    @cached_property
    def history(self) -> pd.DataFrame:
        """A frame with a row for each epoch; its columns are the fields of `EpochResult`."""
        import pandas as pd

        return pd.DataFrame([asdict(epoch) for epoch in self._epochs]).set_index("epoch")

    def model(self) -> nn.Module:
        """Build the trained network, in eval mode on the CPU: standardised float `(B, C, H, W)` to logits.

        Raises:
            UsageError: there are no weights, as after a cross-validation.
        """
        from sweeper.training.networks import build_model, load_weights

        weights = self._weights()
        if not weights:
            raise UsageError("cross-validation keeps no weights. Train with split=holdout or split=test.")
        return load_weights(build_model(self.config, self._source.spec), weights).eval()

    def batches(self, batch_size: int = 128) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training images of the run, as its network takes them, and their labels.

        Images are standardised float `(B, C, H, W)`, without augmentation, labels `(B,)`.
        """
        from sweeper.training.images import load, to_input

        train = load(self.config, self._source)[0].train
        for pixels, labels in zip(train.pixels.split(batch_size), train.labels.split(batch_size), strict=True):
            yield to_input(pixels, train.spec), labels


@dataclass(frozen=True)
class Replay:
    """A run that was trained again and compared bit for bit.

    Attributes:
        identical: True if every recorded value is the same.
        epochs: number of recorded epochs.
        difference: the first difference, or an empty string.
        environment: changes since then: code, packages, processor.
    """

    identical: bool
    epochs: int
    difference: str
    environment: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A study. Each property reads its present state from the database."""

    name: str
    _env: Environment

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters of the configuration with the best shrunken mean of the metric that the study searches for.

        Raises:
            UsageError: no trial is complete.
        """
        return dict(self._best().params)

    @property
    def best_value(self) -> float:
        """The best configuration's shrunken mean: an accuracy in [0, 1], a loss in nats, or a calibration error."""
        return self._best().standing.shrunken

    def trials_dataframe(self) -> pd.DataFrame:
        """Return a frame with a row for each trial, and Optuna's columns: number, value, state, params_NAME, …."""
        import pandas as pd

        rows = self._view().rows
        params = sorted({name for row in rows for name in row.params})
        return pd.DataFrame(
            [
                {"number": row.number, "value": row.value, "accuracy": row.accuracy, "loss": row.loss,
                 "state": row.state.upper(), "duration": row.seconds, "epochs": row.epochs,
                 **{f"params_{name}": row.params.get(name) for name in params}}
                for row in rows
            ]
        )  # fmt: skip

    def champion(self) -> Run:
        """Return the champion: the best configuration, retrained and evaluated once on the test images.

        Raises:
            UsageError: there is none yet.
        """
        from sweeper.tracking.reading import finished_of

        ended = list(finished_of(self._env.journal / self.name, self._view().uid, "champion", self._env.warn))
        if not ended:
            raise UsageError(f"study {self.name!r} has no champion yet. Run optimize without final=False.")
        return _recorded(self._env, max(ended, key=lambda run: run.time))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report as one HTML file, by default `report/NAME.html` in the home, and return its path."""
        from sweeper.sweep.records import write_sweep_report

        return Path(write_sweep_report(self._env, self.name, None if path is None else Path(path))["report"])

    def _view(self) -> StudyView:
        from sweeper.study.reading import read_study

        return read_study(self.name, self._env.storage)

    def _best(self) -> Ranked:
        from sweeper.study.rows import ranking

        view = self._view()
        best = ranking(view.rows, view.metric)
        if not best:
            raise UsageError(f"study {self.name!r}: no trial is complete yet. Run optimize for more trials.")
        return best[0]


def train(
    config: RunConfig,
    *,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Run:
    """Train one configuration and record its curves.

    Args:
        config: the configuration, for example `sweeper.experiment(6)`; its device and precision are ignored.
        home: folder of the state; by default SWEEPER_HOME, or the current folder.
        tracking_uri: an MLflow server or database, `offline` for the journal alone, `none` for no record; by default
            MLFLOW_TRACKING_URI, or mlflow.db in the home.
        experiment_name: MLflow experiment of the run; by default MLFLOW_EXPERIMENT_NAME, that of MLFLOW_EXPERIMENT_ID,
            or `bn-dropout`. It is created if there is none.
        data_dir: folder of FashionMNIST's four files, or torchvision's root.
        device: cpu, cuda, cuda:N or auto.
        precision: fp32, bf16 or auto.
        progress: show progress.

    Raises:
        ConfigError, DataError: a value is wrong, or the images are missing; nothing was created.
        TrainingError: the training did not finish.
    """
    env = environment(home, tracking_uri, experiment_name, data_dir=data_dir, progress=progress)
    from sweeper.sweep.train import train_one

    with interruptible():
        trained = train_one(env, config, dataset=config.dataset, device=device, precision=precision)
    folder = None if trained.journal is None else Path(trained.journal)
    return Run(trained.config, trained.result.metrics(), trained.run_id, folder, trained.result.history,
               trained.source, lambda: trained.result.weights)  # fmt: skip


def optimize(
    base: RunConfig,
    space: Mapping[str, Any] | None = None,
    *,
    study_name: str = "sweep",
    n_trials: int = 50,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    storage: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
    engine: str = "auto",
    workers: int | None = 1,
    **options: Any,
) -> Study:
    """Search `space` around `base` until exactly `n_trials` trials are finished. An existing study is continued.

    Args:
        base: the configuration that the search varies. It validates on held-out images: split `test` becomes
            `holdout`.
        space: for each field a list of values, `(low, high)` or `(low, high, "log")`; by default placement, rates and
            batch size.
        study_name: letters, digits, `_`, `.` and `-`.
        n_trials: finished trials to reach, complete or pruned.
        home: as for `train`.
        tracking_uri: as for `train`.
        experiment_name: as for `train`.
        data_dir: as for `train`.
        device: as for `train`.
        precision: as for `train`.
        progress: as for `train`.
        storage: database of the study; by default SWEEPER_STORAGE, or sweeper.db in the home.
        engine: processes, serial, gpu, ray or auto.
        workers: number of runs at a time; None lets the engine choose.
        options: further fields of `sweeper.sweep.options.SweepOptions`: metric, sampler, pruner, timeout, retries,
            one_seed, finalists, finalist_seeds, final.

    Raises:
        UsageError, DataError: a value is wrong, or the images are missing; nothing was created.
        StudyConflict: the study has other settings, or another process uses it.
        StudyIncomplete: too many trials failed.
        OutOfTime: the timeout passed before any trial finished.
    """
    from sweeper.engine.choice import EngineChoice
    from sweeper.study.space_file import parse_space
    from sweeper.sweep.networks import find_network
    from sweeper.sweep.options import SweepOptions, search_space, start_workers

    config, choice = base.derive(split="holdout") if base.split == "test" else base, EngineChoice(engine, workers)
    if config.model not in MODELS:
        start_workers(choice, device)  # one of them calls the function that builds the network
    env = environment(home, tracking_uri, experiment_name, storage=storage, data_dir=data_dir, progress=progress)
    network = find_network(env, config, base.dataset, {})
    asked = SweepOptions(
        network.config, search_space(None, network.placements) if space is None else parse_space(space), n_trials,
        study_name, dataset=base.dataset, source=network.source, device=device, precision=precision, engine=choice,
        **options,
    )  # fmt: skip
    start_workers(asked.engine, device)
    from sweeper.sweep.optimize import check_finished
    from sweeper.sweep.optimize import optimize as sweep

    with interruptible():
        check_finished(sweep(env, asked), n_trials)
    return Study(study_name, env)


def load_study(
    study_name: str | None = None, *, home: str | Path | None = None, tracking_uri: str | None = None,
    storage: str | None = None,
) -> Study:  # fmt: skip
    """Return a recorded study, by default the newest.

    Args:
        study_name: its name.
        home: as for `train`.
        tracking_uri: as for `train`; the store with the runs of its champion.
        storage: as for `optimize`.

    Raises:
        UsageError: there is no such study.
    """
    from sweeper.study.reading import read_study

    env = environment(home, tracking_uri, storage=storage, progress=False, check_tracking=False)
    return Study(read_study(study_name, env.storage).name, env)


def replay(
    run: str | Path | Run,
    *,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> Replay:
    """Train a recorded run again, and compare it bit for bit.

    Args:
        run: a `Run`, the ID of a run in MLflow, or a journal folder.
        home: as for `train`.
        tracking_uri: as for `train`.
        experiment_name: as for `train`.
        data_dir: as for `train`.
        progress: as for `train`.

    Raises:
        UsageError: there is no such run, or nothing to compare.
        DataError: its images are missing or have changed.
    """
    env = environment(home, tracking_uri, experiment_name, data_dir=data_dir, progress=progress, check_tracking=False)
    from sweeper.sweep.replay import replay as train_again

    where = (run.folder or run.run_id) if isinstance(run, Run) else run
    if where is None:
        raise UsageError("the run was not recorded, so it cannot be compared. Train it with another tracking_uri.")
    with interruptible():
        found = train_again(env, str(where))
    return Replay(found["identical"], found["epochs"], found["difference"], tuple(found["environment"]))


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt where a command would end with the exit code of a signal."""
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None


def environment(
    home: str | Path | None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    *,
    storage: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
    check_tracking: bool = True,
) -> Environment:
    """Resolve the arguments that name the places of a call's state, as `train` describes them."""
    from sweeper.sweep.environment import resolve_environment

    if tracking_uri is None:
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or None
    if storage is None:
        storage = os.environ.get("SWEEPER_STORAGE") or None
    options = {
        "tracking_uri": tracking_uri, "experiment_name": experiment_name, "storage": storage, "progress": progress,
        "data_dir": None if data_dir is None else Path(data_dir), "json_output": False,
        "home": None if home is None else Path(home),
    }  # fmt: skip
    return resolve_environment(options, warn=log.warning, say=log.info, check_tracking=check_tracking)


def _recorded(env: Environment, run: Ended) -> Run:
    """Return a finished run of the journal."""
    from sweeper.data.sources import find
    from sweeper.sweep.examine import read_weights
    from sweeper.tracking.fetching import run_id_of
    from sweeper.tracking.reading import read_record

    record = read_record(run.folder)
    config = RunConfig.from_params(record.params)
    run_id = run_id_of(run.folder, "", env.tracking_uri) if env.tracking_uri not in (NONE, OFFLINE) else None
    return Run(config, run.metrics, run_id, run.folder, [record.epochs[number] for number in sorted(record.epochs)],
               find(config.dataset, env.data_dir, config.image_size),
               lambda: read_weights(env, str(run.folder), record.tags))  # fmt: skip
