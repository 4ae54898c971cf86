"""Control a running sweep, advice or reproduction from another terminal.

Orders reach a study through its database, from any machine; the others through their folder in the journal.
"""

from __future__ import annotations

from typing import Any, Final

from sweeper.core.environment import Environment
from sweeper.core.errors import UsageError

DONE: Final = {
    "pause": "pausing at the end of the current epochs; continue with sweeper resume",
    "run": "resumed",
    "stop": "stopping at the end of the current epochs; run the same command again to continue",
}


def order(env: Environment, study: str, wanted: str) -> dict[str, Any]:
    """Tell the driver of a study, an advice or a reproduction to pause, run or stop. Return the JSON of `--json`.

    Raises:
        UsageError: there is no such study, or no driver runs it.
    """
    from sweeper.study.control import WANTED

    return _give(env, study, WANTED, wanted, DONE[wanted])


def set_workers(env: Environment, study: str, workers: int) -> dict[str, Any]:
    """Tell the driver of a study how many runs to train at a time, and return the JSON that `--json` prints.

    Raises:
        UsageError: there is no such study, or no driver runs it.
    """
    from sweeper.study.control import WORKERS

    return _give(env, study, WORKERS, workers, f"{workers} at a time from now on; running ones continue")


def skip(env: Environment, study: str, trial: int) -> dict[str, Any]:
    """Tell the driver of a study to end a trial, and return the JSON that `--json` prints.

    Raises:
        UsageError: there is no such study, no driver runs it, or the trial is not running.
    """
    from sweeper.study.control import SKIP
    from sweeper.study.reading import read_study

    running = [row.number for row in read_study(study, env.storage).rows if row.state == "running"]
    if trial not in running:
        shown = ", ".join(map(str, running)) or "none"
        raise UsageError(f"trial {trial} of study {study!r} is not running. Running trials: {shown}.")
    return _give(env, study, f"{SKIP}{trial}", trial, f"stopping trial {trial}; another one replaces it")


def _give(env: Environment, study: str, name: str, value: str | int, means: str) -> dict[str, Any]:
    from sweeper.sweep import folder

    if folder.is_held(env.journal, study):
        folder.give(env.journal, study, name, value)
        env.say(f"{study}: {means}")
    else:
        _give_study(env, study, name, value)
        env.say(f"study {study!r}: {means}")
    return {"study": study, name: value}


def _give_study(env: Environment, study: str, name: str, value: str | int) -> None:
    from sweeper.core.urls import database_url
    from sweeper.study.lock import is_driven
    from sweeper.study.reading import open_existing

    with open_existing(study, env.storage) as (storage, _):
        if not is_driven(database_url(env.storage), study):
            raise UsageError(f"study {study!r} is not running. Start it with sweeper optimize.")
        storage.set_study_user_attr(storage.get_study_id_from_name(study), name, value)
