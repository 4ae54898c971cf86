"""A sweep that was never trained, of any size: its study, its journal and its runs in MLflow.

What `sweeper optimize` would have left in `home`, but for the artifacts. Optuna is given whole trials, some 15 ms each.
A run by MLflow's own calls takes 0.1 s and more, so that rows are put into its tables instead.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.config import RunConfig
from sweeper.core.environment import EXPERIMENT, storage_url, tracking_url
from sweeper.core.experiments import experiment
from sweeper.data.fashion import SAMPLE
from sweeper.study.opening import open_study
from sweeper.study.space import Space, default_space
from sweeper.study.study import Study, StudySettings
from sweeper.tracking.base import FINISHED
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import KEY_TAG, UPLOAD
from sweeper.tracking.mlflow import behind
from sweeper.tracking.reading import EVENTS

NAME: Final = "synthetic"
OPTIONS: Final = ("--study", NAME, "--exp", "6", "--model", "small", "--epochs", "10", "--dataset", "sample",
                  "--precision", "fp32", "--device", "cpu")  # of `sweeper optimize`, to continue the study  # fmt: skip
EPOCHS: Final = 10
PRUNED_AT: Final = 3
BATCH: Final = 2_000  # trials in a statement
DIGEST: Final = SAMPLE.digest
BEGAN: Final = dt.datetime(2026, 1, 1)


class Made(NamedTuple):
    """One trial as all three stores hold it."""

    number: int
    config: RunConfig
    asked: dict[str, tuple[Any, optuna.distributions.BaseDistribution]]  # value and distribution, by parameter
    curve: dict[int, float]  # validation accuracy by epoch
    pruned: bool

    @property
    def last(self) -> float:
        """The last accuracy."""
        return self.curve[max(self.curve)]

    @property
    def began(self) -> dt.datetime:
        """A trial a minute."""
        return BEGAN + dt.timedelta(minutes=self.number)

    @property
    def ended(self) -> dt.datetime:
        """Five seconds an epoch."""
        return self.began + dt.timedelta(seconds=5 * len(self.curve))


def settings(seed: int = 0) -> StudySettings:
    """Those of the study: experiment 6 on the small network, the default space."""
    base = experiment(6, model="small", epochs=EPOCHS, dataset="sample", split="holdout")
    return StudySettings(base, default_space(), DIGEST, seed=seed)


def open_synthetic(home: Path) -> Study:
    """The study, held by this process."""
    return open_study(NAME, settings(), storage_url(home))


def make(home: Path, trials: int, *, journal: bool = True, mlflow: bool = True) -> None:
    """Leave a finished sweep of `trials` trials in `home`, an empty folder."""
    with_settings = settings()
    study = open_synthetic(home)
    study.set_target(trials, 1)
    uid = study.uid
    study.close()
    made = list(draw(trials, with_settings.base, with_settings.space))
    _fill_study(storage_url(home), made)
    if journal:
        run_ids = [f"{made_one.number:032x}" for made_one in made]
        for one, run_id in zip(made, run_ids, strict=True):
            _write_run(home, uid, one, run_id)
    if mlflow:
        _make_mlflow(home, uid, made)
    assert not any(behind(home / "journal", tracking_url(home))), "else what is measured is the upload"


def draw(trials: int, base: RunConfig, space: Space) -> Iterator[Made]:
    """Trials of random parameters, the same each time; every fourth is pruned."""
    rng = random.Random(0)
    for number in range(trials):
        asked = _Asked(rng)
        config = space.suggest(base, asked)
        top = 0.93 - 0.01 * math.log2(config.batch_size / 32) - abs(config.head_dropout - 0.2) / 10
        pruned = number % 4 == 3
        epochs = PRUNED_AT if pruned else EPOCHS
        curve = {e: top - 0.3 * math.exp(-e / 2) + rng.gauss(0, 0.004) for e in range(1, epochs + 1)}
        yield Made(number, config, asked.params, curve, pruned)


class _Asked:
    """Answers at random, and remembers what it was asked."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.params: dict[str, tuple[Any, optuna.distributions.BaseDistribution]] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`."""
        value = self._rng.choice(choices)
        self.params[name] = value, optuna.distributions.CategoricalDistribution(choices)
        return value

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A value in [low, high]."""
        value = self._rng.uniform(low, high)
        self.params[name] = value, optuna.distributions.FloatDistribution(low, high, log=log)
        return value


# --- the study -----------------------------------------------------------------------------------


def _fill_study(url: str, made: Sequence[Made]) -> None:
    """Give the study its trials, without waiting for the disk at each."""
    storage = optuna.storages.RDBStorage(url)
    sqlalchemy.event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
    storage.engine.dispose()  # the connections of before
    optuna.load_study(study_name=NAME, storage=storage).add_trials(map(_frozen, made))
    storage.engine.dispose()


def _frozen(one: Made) -> FrozenTrial:
    made = optuna.trial.create_trial(
        state=TrialState.PRUNED if one.pruned else TrialState.COMPLETE,
        value=one.last,
        params={name: value for name, (value, _) in one.asked.items()},
        distributions={name: distribution for name, (_, distribution) in one.asked.items()},
        user_attrs={"key": one.config.key}
        | ({"reason": f"pruned after epoch {PRUNED_AT}"} if one.pruned else {"val_loss": 1.1 - one.last}),
        intermediate_values=one.curve,
    )
    made.datetime_start, made.datetime_complete = one.began, one.ended
    return made


# --- the journal ---------------------------------------------------------------------------------


def _tags(one: Made) -> dict[str, str]:
    tags = {"kind": "trial", "study": NAME, "trial": str(one.number), "experiment": "6", "dataset": "sample",
            "dataset_sha256": DIGEST, "config_key": one.config.key, "threads": "2", "hardware": "none",
            "versions": "none"}  # fmt: skip
    return {f"sweeper.{name}": value for name, value in tags.items()}


def _metrics(accuracy: float) -> dict[str, float]:
    """Those of an epoch."""
    loss = 1.1 - accuracy
    return {
        "train/loss": loss - 0.05, "train/accuracy": accuracy + 0.02, "val/loss": loss, "val/accuracy": accuracy,
        "val/ece": 0.02, "gap/loss": 0.05, "gap/accuracy": 0.02, "lr": 1e-3, "grad_norm": 1.0,
        "time/epoch_s": 5.0, "time/images_per_s": 1200.0,
    }  # fmt: skip


def _final(one: Made) -> dict[str, float]:
    return {"final/val_accuracy": one.last, "final/val_loss": 1.1 - one.last}


def _run_name(one: Made) -> str:
    return f"{one.number:03d} {one.config.placement}"


def _ms(when: dt.datetime) -> int:
    return int(when.timestamp() * 1000)


def _events(home: Path, uid: str, one: Made) -> Iterator[dict[str, Any]]:
    profile = {"train_images": 6000, "val_images": 1000, "folds": 0, "split": "holdout"}
    dataset = {"name": "sample", "sha256": DIGEST, "source": "nowhere", "profile": profile}
    yield {"event": "start", "time": _ms(one.began), "key": f"{uid}/{one.number}", "name": _run_name(one),
           "params": one.config.to_params(), "description": "", "tags": _tags(one) | {"sweeper.attempt": "1"},
           "dataset": dataset, "run_id": None, "store": tracking_url(home)}  # fmt: skip
    for epoch, accuracy in one.curve.items():
        time = _ms(one.began + dt.timedelta(seconds=5 * epoch))
        yield {"event": "epoch", "time": time, "step": epoch, "metrics": _metrics(accuracy)}
    state = "pruned" if one.pruned else "complete"
    yield {"event": "end", "time": _ms(one.ended), "status": FINISHED, "metrics": _final(one),
           "tags": {"sweeper.state": state}}  # fmt: skip


def _write_run(home: Path, uid: str, one: Made, run_id: str) -> None:
    """The run's folder, as one whose uploads have arrived."""
    folder = home / "journal" / NAME / f"{one.number:04d}"
    folder.mkdir(parents=True)
    events = list(_events(home, uid, one))
    (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / UPLOAD).write_text(json.dumps({"store": tracking_url(home), "run_id": run_id, "events": len(events)}))


# --- MLflow --------------------------------------------------------------------------------------


Rows = Iterable[tuple[sqlalchemy.Table, list[dict[str, Any]]]]


def _make_mlflow(home: Path, uid: str, made: Sequence[Made]) -> None:
    """MLflow's database, made by sweeper's own uploader, with a run a trial."""
    connection = Connection(tracking_url(home), home, lambda _: None)
    connection.connect()
    found = connection.client.get_experiment_by_name(EXPERIMENT)
    assert found is not None, "connect() makes it"
    _fill(tracking_url(home), _mlflow_rows(found.experiment_id, found.artifact_location, uid, made))


def _fill(url: str, rows: Rows) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for table, values in rows:
            if values:
                connection.execute(table.insert(), values)
    engine.dispose()


def _mlflow_rows(experiment_id: str, location: str, uid: str, made: Sequence[Made]) -> Rows:
    from mlflow.store.tracking.dbmodels import models as mlflow_tables

    for some in (made[first : first + BATCH] for first in range(0, len(made), BATCH)):
        runs = [_Run(one, f"{one.number:032x}", uid) for one in some]
        yield mlflow_tables.SqlRun.__table__, [run.row(int(experiment_id), location) for run in runs]
        yield mlflow_tables.SqlParam.__table__, [row for run in runs for row in run.params()]
        yield mlflow_tables.SqlTag.__table__, [row for run in runs for row in run.tags()]
        yield mlflow_tables.SqlMetric.__table__, [row for run in runs for row in run.points()]
        yield mlflow_tables.SqlLatestMetric.__table__, [row for run in runs for row in run.latest()]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A trial's run as rows of MLflow's tables."""

    one: Made
    run_id: str
    uid: str

    def row(self, experiment_id: int, location: str) -> dict[str, Any]:
        return {"run_uuid": self.run_id, "name": _run_name(self.one), "source_type": "LOCAL", "user_id": "nobody",
                "status": FINISHED, "start_time": _ms(self.one.began), "end_time": _ms(self.one.ended),
                "lifecycle_stage": "active", "experiment_id": experiment_id,
                "artifact_uri": f"{location}/{self.run_id}/artifacts"}  # fmt: skip

    def params(self) -> Iterator[dict[str, Any]]:
        return ({"run_uuid": self.run_id, "key": k, "value": v} for k, v in self.one.config.to_params().items())

    def tags(self) -> Iterator[dict[str, Any]]:
        tags = _tags(self.one) | {KEY_TAG: f"{self.uid}/{self.one.number}", "mlflow.runName": _run_name(self.one),
                                  "sweeper.state": "pruned" if self.one.pruned else "complete"}  # fmt: skip
        return ({"run_uuid": self.run_id, "key": k, "value": v} for k, v in tags.items())

    def points(self) -> Iterator[dict[str, Any]]:
        for epoch, accuracy in self.one.curve.items():
            time = _ms(self.one.began + dt.timedelta(seconds=5 * epoch))
            for name, value in _metrics(accuracy).items():
                yield self._point(name, value, time, epoch)
        for name, value in _final(self.one).items():
            yield self._point(name, value, _ms(self.one.ended), 0)

    def latest(self) -> Iterator[dict[str, Any]]:
        return iter({point["key"]: point for point in self.points()}.values())

    def _point(self, key: str, value: float, time: int, step: int) -> dict[str, Any]:
        return {"run_uuid": self.run_id, "key": key, "value": value, "timestamp": time, "step": step, "is_nan": False}
