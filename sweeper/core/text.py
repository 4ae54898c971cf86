"""Write durations, counts and the text of others for the terminal."""

from __future__ import annotations

import re


def duration(seconds: float) -> str:
    """Return seconds in the largest two units: 42s, 3m10s, 1h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def parse_duration(text: str) -> float:
    """Return the seconds of a time such as 90s, 30m, 2h, or a number of seconds.

    Raises:
        ValueError: it is not a time.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a time such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def counted(count: int, noun: str) -> str:
    """Return the count and its noun: 1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """Return `text` with its control characters escaped, except line feeds: a terminal obeys them."""
    return "".join(c if c.isprintable() or c in "\n\u00a0\u202f" else c.encode("unicode_escape").decode() for c in text)


def in_one_line(text: str) -> str:
    """Return `text` with its control characters and line feeds escaped."""
    return printable(text).replace("\n", "\\n")
