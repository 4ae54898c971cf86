"""Read a study that another process may be writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from sweeper.core.config import RunConfig
from sweeper.core.errors import StudyConflict, UsageError
from sweeper.core.metric import ACCURACY, METRICS, Metric, metric_of
from sweeper.core.names import check_name
from sweeper.core.urls import database_url
from sweeper.study.control import PAUSE, read_orders
from sweeper.study.database import open_database, read_trials
from sweeper.study.lock import driver_of
from sweeper.study.rows import StudyRecord, TrialRow, ranking, study_record, trial_rows
from sweeper.study.study import StudySettings


class StudyView(NamedTuple):
    """A study as another process sees it."""

    name: str
    target: int
    workers: int
    rows: list[TrialRow]
    driven: bool = True  # False if no driver holds it
    command: str = ""  # that drove it last
    uid: str = ""
    paused: bool = False
    metric: Metric = ACCURACY  # that it searches for
    driver: str = ""  # who drives it, and since when


class Ranking(NamedTuple):
    """One of the best configurations of a study."""

    trial: int  # the first that had it
    params: Mapping[str, Any]  # which the study varied
    config: RunConfig  # with the base seed


def read_study(name: str | None, storage_url: str) -> StudyView:
    """Read a study, by default the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    found, attributes, trials = _read(name, storage_url)
    metric = metric_of(attributes.get("settings", {}))
    driver = driver_of(database_url(storage_url), found)
    return StudyView(
        name=found,
        target=int(attributes.get("target", 0)),
        workers=int(attributes.get("workers", 1)),
        rows=trial_rows(trials, metric),
        driven=bool(driver),
        command=str(attributes.get("command", "")),
        uid=str(attributes.get("uid", "")),
        paused=read_orders(attributes).wanted == PAUSE,
        metric=metric,
        driver=driver,
    )


def read_record(name: str | None, storage_url: str) -> StudyRecord:
    """Read all of a study, by default of the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    return study_record(*_read(name, storage_url))


def read_settings(name: str, storage_url: str) -> StudySettings:
    """Read the settings that a study was made with.

    Raises:
        UsageError: there is no such study.
        StudyConflict: sweeper did not make it.
    """
    found, attributes, _ = _read(name, storage_url)
    return _settings(found, attributes)


def best_configurations(name: str, storage_url: str, top: int) -> list[Ranking]:
    """Read the `top` best configurations of a study, or all if they are fewer, the best first.

    Raises:
        UsageError: there is no such study, or no trial of it is complete.
        StudyConflict: sweeper did not make it.
    """
    found, attributes, trials = _read(name, storage_url)
    settings = _settings(found, attributes)
    metric = METRICS[settings.metric]
    best = ranking(trial_rows(trials, metric), metric)[:top]
    if not best:
        raise UsageError(f"study {found!r}: no trial is complete yet. Name another study.")
    return [Ranking(each.trials[0], each.params, settings.configuration(each.params)) for each in best]


def _settings(name: str, attributes: Mapping[str, Any]) -> StudySettings:
    if "settings" not in attributes:
        raise StudyConflict(f"study {name!r} was not created by sweeper. Name another one.")
    return StudySettings.read(attributes["settings"])


def _read(name: str | None, storage_url: str) -> tuple[str, Mapping[str, Any], list[FrozenTrial]]:
    """Return the name, attributes and trials of the study `name`, or of the one created last."""
    with open_existing(name, storage_url) as (storage, found):
        study_id = storage.get_study_id_from_name(found)
        return found, storage.get_study_user_attrs(study_id), read_trials(storage, study_id)


@contextlib.contextmanager
def open_existing(name: str | None, storage_url: str) -> Iterator[tuple[RDBStorage, str]]:
    """Open the database that holds the study `name`, or by default the study that was created last; yield both.

    Raises:
        UsageError: there is no such study.
    """
    url = database_url(storage_url)
    sqlite = url.get_backend_name() == "sqlite"
    where = Path(url.database or "").absolute() if sqlite else url.database
    if isinstance(where, Path) and not where.is_file():
        raise UsageError(
            f"storage {where} does not exist. Run `sweeper optimize` first, or name the database with --storage."
        )
    with open_database(url, create=False) as storage:
        names = [study.study_name for study in storage.get_all_studies()]
        if not names or (name is not None and name not in names):
            raise UsageError(f"no study {str(name)[:100]!r} in {where}, which holds: {', '.join(names) or 'no study'}.")
        yield storage, check_name(name or names[-1])  # another program may have made it
