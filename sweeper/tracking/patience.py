"""Repeat a request to MLflow until it passes or is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient


# In what MLflow says of a server that is away or overloaded, and of one that answered with a status.
PASSING: Final = re.compile(r"API request to (?!endpoint )|\blocked|OperationalError|Max retries")
ANSWERED: Final = re.compile(r"API request to endpoint .*? failed with error code (\d{3})")
FIRST_PAUSE: Final = 0.1  # seconds before the second try
LONGEST_PAUSE: Final = 10.0  # seconds between two tries while the server is away

T = TypeVar("T")


def _retrying(call: Callable[[], T], report: Callable[[Exception | None], None], wait: Callable[[float], None]) -> T:
    """Call until the server answers. What it answers, good or bad, is passed on."""
    pause = FIRST_PAUSE
    while True:
        try:
            result = call()
        except Exception as error:
            if not _passing(error):
                raise
            report(error)
            wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            report(None)
            return result


class _Patient:
    """A client each call of which is repeated until the server answers, where repeating it changes nothing.

    The others are repeated with the whole upload, which first looks what is there.
    """

    def __init__(
        self, client: MlflowClient, report: Callable[[Exception | None], None], wait: Callable[[float], None]
    ) -> None:
        self._client, self._report, self._wait = client, report, wait

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *given, **named: _retrying(
            lambda: getattr(self._client, name)(*given, **named), self._report, self._wait
        )


def _passing(error: Exception) -> bool:
    """Whether trying again may help: the server is away, overloaded, or its database is locked."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:  # of the artifacts
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
    """Whether a server that answers with this HTTP status may take the same request later."""
    return status in (408, 429) or status >= 500
