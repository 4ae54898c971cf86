"""The tracker of a command, from its first run to its last upload."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from sweeper.core.environment import EXPERIMENT, NONE, OFFLINE, Environment
from sweeper.core.errors import SweeperError
from sweeper.core.text import counted
from sweeper.sweep.describe import commit_unknown
from sweeper.sweep.signals import Signals
from sweeper.tracking.base import NullTracker, Tracker
from sweeper.tracking.freeing import size_of
from sweeper.tracking.journal import JournalTracker, Measure
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.store import absolute, hide_password
from sweeper.tracking.system import SystemMetrics
from sweeper.tracking.upload import Figures

FLUSH_SECONDS: Final = 60.0  # for the uploads at the end of a command
SHORT_FLUSH_SECONDS: Final = 5.0  # the same after an error or a signal
LARGE: Final = 1e9  # bytes of files in the journal, from which on we say how to free the disk


@contextmanager
def tracking(env: Environment, signals: Signals, *, system_metrics: bool = False) -> Iterator[Tracker]:
    """Yield the tracker that `env` specifies, and wait for pending uploads at the end of the block.

    After an error or a signal the wait is short. With `system_metrics`, each epoch has the load of this machine, too.

    Raises:
        SweeperError: no run can ever be uploaded.
    """
    if env.tracking_uri != NONE and (reason := commit_unknown()):
        env.warn(f"the git commit of sweeper is not recorded ({reason})")
    tracker: Tracker
    measure: Measure = SystemMetrics() if system_metrics else dict
    if env.tracking_uri == NONE:
        tracker = NullTracker()
    elif env.tracking_uri == OFFLINE:
        tracker = JournalTracker(env.journal, env.warn, measure)
    else:
        tracker = MlflowTracker(env.journal, env.tracking_uri, FIGURES, env.warn, measure, env.experiment)
    waiting = None
    try:
        yield tracker
        with signals.raised():
            waiting = tracker.close(FLUSH_SECONDS)
        tracker.check()
        _say_size(env, tracker)
    finally:
        if waiting is None:
            waiting = tracker.close(SHORT_FLUSH_SECONDS)
        if waiting:
            with suppress(SweeperError):  # the command fails with it, and it says what to do first
                tracker.check()
                env.warn(f"not in MLflow yet: {counted(waiting, 'run')}. To upload, run: {_sync(env)}")


def _say_size(env: Environment, tracker: Tracker) -> None:
    """Print how to free disk space, if the journal is large and MLflow has its files too."""
    if isinstance(tracker, MlflowTracker) and (size := size_of(env.journal)) > LARGE:
        how = f"To delete those that MLflow holds as well, run: {_sync(env)} --free"
        env.say(f"the journal holds {size / 1e9:.1f} GB of files. {how}")


def _sync(env: Environment) -> str:
    """The command that uploads the journal to the same store, for a shell."""
    store = hide_password(absolute(env.tracking_uri))
    named = "" if env.experiment.name == EXPERIMENT else f" --experiment-name {shlex.quote(env.experiment.name)}"
    return f"sweeper sync {shlex.quote(str(env.journal))} --tracking-uri {shlex.quote(store)}{named}"


def _curves(epochs: list[dict[str, float]], title: str) -> bytes:
    from sweeper.report.run.curves import curves  # matplotlib loads while the first epochs are trained

    return curves(epochs, title)


def _xray(found: Mapping[str, Any], title: str) -> bytes:
    from sweeper.report.run.xray import figure

    return figure(found, title)


FIGURES: Final = Figures(_curves, _xray)
