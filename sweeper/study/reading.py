"""Read a study that another process may be writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import optuna

from sweeper.core.errors import UsageError
from sweeper.core.urls import database_url
from sweeper.study.database import _storage
from sweeper.study.rows import StudyRecord, TrialRow, _record, _row
from sweeper.study.trials import Shown, read_trials


class StudyView(NamedTuple):
    """A study as another process sees it."""

    name: str
    target: int
    workers: int
    rows: list[TrialRow]


def read_study(name: str | None, storage_url: str) -> StudyView:
    """Read a study, by default the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    with _loaded(name, storage_url) as study:
        attrs = study.user_attrs
        return StudyView(
            name=study.study_name,
            target=int(attrs.get("target", 0)),
            workers=int(attrs.get("workers", 1)),
            rows=[_row(frozen) for frozen in study.get_trials(deepcopy=False)],
        )


@contextlib.contextmanager
def _loaded(name: str | None, storage_url: str) -> Iterator[optuna.Study]:
    """The study `name`, or the one created last, to be read.

    Raises:
        UsageError: there is no such study.
    """
    url = database_url(storage_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise UsageError(
            f"storage {url.database}: no such file; run `sweeper optimize` first, or name it with --storage"
        )
    with _storage(url, create=False) as storage:
        names = [s.study_name for s in storage.get_all_studies()]
        if not names or (name is not None and name not in names):
            raise UsageError(f"study {name!r}: not in {url.database}, which holds: {', '.join(names) or 'no study'}")
        study = optuna.load_study(study_name=name or names[-1], storage=storage)
        yield Shown(study, read_trials(storage, study._study_id))


def read_record(name: str | None, storage_url: str) -> StudyRecord:
    """Read all of a study, by default of the one created last, without holding it.

    Raises:
        UsageError: there is no such study.
    """
    with _loaded(name, storage_url) as study:
        return _record(study)
