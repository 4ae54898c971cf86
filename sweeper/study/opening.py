"""Open a study, or create it; refuse one with other settings."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.core.dataset import FASHION
from sweeper.core.errors import StudyConflict
from sweeper.core.metric import METRICS, metric_of
from sweeper.core.names import check_name
from sweeper.core.urls import database_url
from sweeper.study.database import open_database
from sweeper.study.known import Known
from sweeper.study.lock import acquire, creation
from sweeper.study.mirror import Mirror
from sweeper.study.space import Space
from sweeper.study.study import Study, StudySettings


def open_study(
    name: str, settings: StudySettings, storage_url: str, is_another: Callable[[str], bool] = lambda _: False,
    known: Sequence[Known] = (),
) -> Study:  # fmt: skip
    """Create the study, or continue it where it stopped.

    Args:
        name: of the study.
        settings: must equal the recorded ones. A metric, sampler or pruner `auto` takes the recorded
            one.
        storage_url: of its database.
        is_another: returns True for the identity of a study, empty for a new one, that did not make the recorded runs.
        known: configurations to train first, which lie in the space. Those that the study has are not enqueued again.

    Raises:
        UsageError: the name or the URL is wrong.
        StudyConflict: another driver holds the study, it has other settings, or the recorded runs are not its; or a
            trial was enqueued that is outside the space, which is failed by this call.
        ServiceUnreachable: the database does not answer.
    """
    check_name(name)
    url = database_url(storage_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        _check_journal(name, "", is_another)
    with contextlib.ExitStack() as resources:
        lock = acquire(url, name)
        resources.callback(lock.release)
        with creation(url):
            storage = resources.enter_context(open_database(url, create=True))
        continued = name in optuna.get_all_study_names(storage)
        _check_journal(name, _identity(name, storage) if continued else "", is_another)
        settings = settings.as_recorded(_recorded(name, storage) if continued else {})
        if continued:
            _check_settings(name, storage, settings)
        else:
            optuna.create_study(storage=storage, study_name=name, direction=METRICS[settings.metric].direction)
        _sign(name, storage, settings)
        _refuse_enqueued(name, storage, settings.space)
        _enqueue(name, storage, known)
        return Study(name, settings, continued, Mirror(storage, name), lock, resources.pop_all())


def _identity(name: str, storage: optuna.storages.BaseStorage) -> str:
    return str(storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get("uid", ""))


def _check_journal(name: str, uid: str, is_another: Callable[[str], bool]) -> None:
    if is_another(uid):
        raise StudyConflict(
            f"the journal holds runs of another study {name!r}, whose database was lost or replaced. Restore that "
            "database from a backup, or choose another name with --study."
        )


def _recorded(name: str, storage: optuna.storages.BaseStorage) -> dict[str, Any]:
    """Return the settings that the study was made with; empty if a driver died before it wrote them."""
    return dict(storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get("settings", {}))


def _check_settings(name: str, storage: optuna.storages.BaseStorage, settings: StudySettings) -> None:
    study_id, stored = storage.get_study_id_from_name(name), _recorded(name, storage)
    directions = [d.name.lower() for d in storage.get_study_directions(study_id)]
    made_for = metric_of(stored) if stored else METRICS[settings.metric]
    if directions != [made_for.direction] or (not stored and storage.get_n_trials(study_id)):
        raise StudyConflict(f"study {name!r} was not created by sweeper. Choose another name with --study.")
    wanted = json.loads(json.dumps(settings.describe()))
    if stored and (changes := _changes(stored, wanted)):
        raise StudyConflict(
            f"study {name!r} exists with other settings ({'; '.join(changes)}). Use the old ones to continue "
            "it, or choose another --study."
        )


def _changes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs. The user's own images and network are the same wherever they lie."""
    changed = [k for k in sorted(stored.keys() | wanted.keys()) if stored.get(k) != wanted.get(k)]
    if wanted["dataset"] not in FASHION and "dataset_sha256" not in changed:
        changed = [k for k in changed if k not in ("dataset", "image_size")]
    if "model_sha256" in wanted and "model_sha256" not in changed:
        changed = [k for k in changed if k != "model"]
    shown = [k for k in changed if k != "sampler_space"] or changed  # which goes with the sampler
    return [_change(k, stored, wanted) for k in shown]


def _change(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    same_name = wanted["dataset"] not in FASHION and stored.get("dataset") == wanted["dataset"]
    if name == "dataset_sha256" and same_name:
        return f"the images of {wanted['dataset']} have changed since it was created"
    if name == "model_sha256" and name in stored and name in wanted:
        return "the network's file has changed since it was created"
    return f"{name} was {stored.get(name)!r}, is {wanted.get(name)!r}"


def _sign(name: str, storage: optuna.storages.BaseStorage, settings: StudySettings) -> None:
    """Write the identity and the settings of a new study. Without them, one that has trials is taken for another
    program's, so they come before all trials."""
    study_id = storage.get_study_id_from_name(name)
    if "settings" not in storage.get_study_user_attrs(study_id):
        storage.set_study_user_attr(study_id, "uid", uuid.uuid4().hex)
        storage.set_study_user_attr(study_id, "settings", settings.describe())


def _enqueue(name: str, storage: optuna.storages.RDBStorage, known: Sequence[Known]) -> None:
    """Enqueue the configurations of which the study has no trial, each in one transaction: a driver that dies between
    two of them leaves the rest to the next one."""
    if known:
        study = optuna.load_study(storage=storage, study_name=name)
        for source, params in known:
            study.enqueue_trial(params, user_attrs={"enqueued": source}, skip_if_exists=True)


def _refuse_enqueued(name: str, storage: optuna.storages.RDBStorage, space: Space) -> None:
    """Fail the trials that were enqueued and cannot be trained: nothing else takes them out of the queue.

    Raises:
        StudyConflict: there were some.
    """
    study_id = storage.get_study_id_from_name(name)
    waiting = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,))
    refused = [(frozen.number, reason) for frozen in waiting if (reason := _outside(space, frozen))]
    for number, reason in refused:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_user_attr(trial_id, "reason", f"enqueued with {reason}")
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    if refused:
        shown = "; ".join(f"trial {number} was enqueued with {reason}" for number, reason in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise StudyConflict(
            f"study {name!r}: {shown}{more}; these trials are recorded as failed. Run the same command again to go "
            "on without them."
        )


def _outside(space: Space, frozen: FrozenTrial) -> str:
    """Return what of an enqueued trial the space does not have, and what it has; empty if all is inside."""
    if frozen.params:  # by `add_trial`: `enqueue_trial` leaves the distributions to the space
        return "its own distributions; use Optuna's enqueue_trial"
    return space.outside(frozen.system_attrs.get("fixed_params", {}))
