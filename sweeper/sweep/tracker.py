"""The tracker of a command, from its first run to its last upload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import SweeperError
from sweeper.core.text import counted
from sweeper.sweep.signals import Signals
from sweeper.tracking.base import NullTracker, Tracker
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.mlflow import MlflowTracker
from sweeper.tracking.store import preflight
from sweeper.tracking.upload import Figures

FLUSH_SECONDS: Final = 60.0  # how long a command waits at its end for what MLflow has not yet
SHORT_FLUSH_SECONDS: Final = 5.0  # the same after an error or a signal


@contextmanager
def tracking(env: Environment, signals: Signals) -> Iterator[Tracker]:
    """The tracker that `env` asks for; at the end of the block, what has not arrived yet is waited for.

    After an error or a signal the wait is short.

    Raises:
        SweeperError: nothing that was recorded can ever arrive.
    """
    tracker: Tracker
    if env.tracking_uri == NONE:
        tracker = NullTracker()
    elif env.tracking_uri == OFFLINE:
        tracker = JournalTracker(env.journal, env.warn)
    else:
        preflight(env.tracking_uri)
        tracker = MlflowTracker(env.journal, env.tracking_uri, FIGURES, env.warn)
    waiting = None
    try:
        yield tracker
        with signals.raised():
            waiting = tracker.close(FLUSH_SECONDS)
        tracker.check()
    finally:
        if waiting is None:
            waiting = tracker.close(SHORT_FLUSH_SECONDS)
        if waiting:
            with suppress(SweeperError):  # which is the error of the command: it says what has to be done first
                tracker.check()
                missing = counted(waiting, "run")
                env.warn(f"not in MLflow yet: {missing}; carry there what is missing with: sweeper sync {env.journal}")


def _curves(epochs: list[dict[str, float]], title: str) -> bytes:
    from sweeper.report.run.curves import curves  # matplotlib loads while the first epochs are trained

    return curves(epochs, title)


def _xray(found: Mapping[str, Any], title: str) -> bytes:
    from sweeper.report.run.xray import figure

    return figure(found, title)


FIGURES: Final = Figures(_curves, _xray)
