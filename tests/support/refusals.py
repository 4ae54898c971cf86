"""The message with which something is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.core.errors import SweeperError


def refusal(call: Callable[[], Any], kind: type[SweeperError]) -> str:
    """Return the message with which `call` is refused; it is always one line."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
