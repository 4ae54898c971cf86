"""What Optuna itself finds in a database of studies."""

from __future__ import annotations

import optuna


def stored(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself reads them from the database."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return storage.get_all_trials(storage.get_study_id_from_name("demo"))
    finally:
        storage.engine.dispose()
