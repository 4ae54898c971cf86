"""Write durations, counts and the text of others for the terminal."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds in the largest two units: 42s, 3m10s, 1h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(count: int, noun: str) -> str:
    """Return the count and its noun: 1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """Return `text` with its control characters escaped, except line feeds: a terminal obeys them."""
    return "".join(c if c.isprintable() or c in "\n\u00a0\u202f" else c.encode("unicode_escape").decode() for c in text)


def in_one_line(text: str) -> str:
    """Return `text` with its control characters and line feeds escaped."""
    return printable(text).replace("\n", "\\n")
