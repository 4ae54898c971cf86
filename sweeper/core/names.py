"""Names that a study may have."""

from __future__ import annotations

import re
from typing import Final

from sweeper.core.errors import ConfigError

NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
TAKEN: Final = re.compile(r"runs|reproduce(-.*)?")  # folders and reports that other commands write


def check_name(name: str) -> str:
    """Return `name` if a study may have it.

    Raises:
        ConfigError: it is empty or too long, has other characters than letters, digits, `_`, `.` and `-`, or is taken.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"study name {name[:60]!r}: use 1 to 100 letters, digits, '_', '.' or '-', starting with a letter or digit"
        )
    if TAKEN.fullmatch(name):
        raise ConfigError(
            f"study name {name!r}: 'runs', 'reproduce' and names that start with 'reproduce-' are reserved. "
            "Choose another."
        )
    return name
