"""Open a study, or create it; refuse one with other settings."""

from __future__ import annotations

import contextlib
import json
import uuid

import optuna
from optuna.trial import FrozenTrial

from sweeper.core.config import check_name
from sweeper.core.errors import StudyConflict
from sweeper.core.urls import database_url
from sweeper.study.database import _storage
from sweeper.study.lock import acquire, creation
from sweeper.study.mirror import Mirror
from sweeper.study.pruning import PRUNERS
from sweeper.study.space import Choice, Space
from sweeper.study.study import Study, StudySettings, _waiting


def open_study(name: str, settings: StudySettings, storage_url: str) -> Study:
    """Create the study, or continue it where it stopped.

    Raises:
        UsageError: the name or the URL is wrong.
        StudyConflict: another driver holds the study, or it has other settings; or a trial was enqueued that is
            outside the space, which is failed by this call.
        ServiceUnreachable: the database does not answer.
    """
    check_name(name)
    url = database_url(storage_url)
    with contextlib.ExitStack() as resources:
        lock = acquire(url, name)
        resources.callback(lock.release)
        with creation(url):
            storage = resources.enter_context(_storage(url, create=True))
        known = name in [s.study_name for s in storage.get_all_studies()]
        if known:
            _check_settings(name, storage, settings)
        optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        mirror = Mirror(storage, name)
        if "settings" not in mirror.study.user_attrs:
            mirror.set_user_attr("uid", uuid.uuid4().hex)
            mirror.set_user_attr("settings", settings.describe())
        _check_enqueued(name, mirror, settings.space)
        pruner = PRUNERS[settings.pruner]()
        return Study(name, settings, mirror, pruner, lock, resources.pop_all(), continued=known)


def _check_settings(name: str, storage: optuna.storages.BaseStorage, settings: StudySettings) -> None:
    study_id = storage.get_study_id_from_name(name)
    stored = storage.get_study_user_attrs(study_id).get("settings")
    directions = [d.name for d in storage.get_study_directions(study_id)]
    if directions != ["MAXIMIZE"] or (stored is None and storage.get_n_trials(study_id)):
        raise StudyConflict(f"study {name!r} was not made by sweeper; choose another name with --study")
    wanted = json.loads(json.dumps(settings.describe()))
    if stored is not None and stored != wanted:
        keys = [k for k in sorted(stored.keys() | wanted.keys()) if stored.get(k) != wanted.get(k)]
        changes = "; ".join(f"{k} was {stored.get(k)!r}, is {wanted.get(k)!r}" for k in keys)
        raise StudyConflict(
            f"study {name!r} has other settings ({changes}); continue it with the old ones, or choose another --study"
        )


def _check_enqueued(name: str, mirror: Mirror, space: Space) -> None:
    """Fail the trials that were enqueued and cannot be trained: nothing else takes them out of the queue.

    Raises:
        StudyConflict: there were some.
    """
    found = [(frozen.number, _outside(space, frozen)) for frozen in _waiting(mirror.study)]
    refused = [(number, reason) for number, reason in found if reason]
    for number, reason in refused:
        mirror.refuse(number, f"enqueued with {reason}")
    if refused:
        shown = "; ".join(f"trial {number} was enqueued with {reason}" for number, reason in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise StudyConflict(
            f"study {name!r}: {shown}{more}; what was refused is recorded as failed, and the same command goes on "
            "without it"
        )


def _outside(space: Space, frozen: FrozenTrial) -> str:
    """What of an enqueued trial is not in the space, and what is; empty if all of it is."""
    if frozen.params:  # by `add_trial`: `enqueue_trial` leaves the distributions to the space
        return "distributions of its own; use Optuna's enqueue_trial"
    for parameter, value in frozen.system_attrs.get("fixed_params", {}).items():
        dimension = space.dimensions.get(parameter)
        shown = f"{str(parameter)[:60]}={value!r:.60}"
        if dimension is None:
            return f"{shown!r}, which the search space does not have; it has {', '.join(space.dimensions)}"
        if isinstance(dimension, Choice):
            if not any(type(value) is type(known) and value == known for known in dimension.values):
                return f"{shown!r}, outside the search space: one of {', '.join(map(str, dimension.values))}"
        elif type(value) not in (int, float) or not dimension.low <= value <= dimension.high:
            return f"{shown!r}, outside the search space: {dimension.low:g} to {dimension.high:g}"
    return ""
