"""Calls to MLflow that are repeated until the server answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's message for a server that is down or overloaded, and for one that answered with a status.
PASSING: Final = re.compile(r"API request to (?!endpoint )|\blocked|OperationalError|Max retries")
ANSWERED: Final = re.compile(r"API request to endpoint .*? failed with error code (\d{3})")
NOT_SERVED: Final = "--no-serve-artifacts"  # in MLflow's answer with status 503, which no later call changes
FIRST_PAUSE: Final = 0.1  # seconds before the second try
LONGEST_PAUSE: Final = 10.0  # seconds between two tries while the server is down

T = TypeVar("T")
Report = Callable[[Exception | None], None]  # takes the error of each failed call, and None after a successful one
Wait = Callable[[float], None]  # sleeps for so many seconds, or raises to give up


def retrying(call: Callable[[], T], report: Report, wait: Wait) -> T:
    """Call until the server answers, then return the result or raise the error."""
    pause = FIRST_PAUSE
    while True:
        try:
            result = call()
        except Exception as error:
            if not passing(error):
                raise
            report(error)
            wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            report(None)
            return result


class Patient:
    """A client that repeats each call until the server answers, for calls that do no harm if they are repeated.

    The others are repeated with the whole upload, which reads first what the server has.
    """

    def __init__(self, client: MlflowClient, report: Report, wait: Wait) -> None:
        self._client, self._report, self._wait = client, report, wait

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *given, **named: retrying(
            lambda: getattr(self._client, name)(*given, **named), self._report, self._wait
        )


def passing(error: Exception) -> bool:
    """Return True if a later call may succeed: the server is down or overloaded, or its database is locked."""
    import requests
    from mlflow.exceptions import MlflowException

    if NOT_SERVED in str(error):
        return False
    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:  # of an artifact
        return _busy(error.response.status_code)
    if isinstance(error, requests.exceptions.RequestException | ConnectionError | TimeoutError):
        return True
    if isinstance(error, MlflowException):
        if error.error_code not in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"):
            return False
        answered = ANSWERED.search(str(error))
        return _busy(int(answered[1])) if answered else PASSING.search(str(error)) is not None
    return "OperationalError" in type(error).__name__


def _busy(status: int) -> bool:
    return status in (408, 429) or status >= 500
