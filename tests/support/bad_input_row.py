"""A row of the table of bad input, and the words of its command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

SAMPLE: Final = ("--dataset", "sample")


class Row(NamedTuple):
    """One command with bad input."""

    what: str  # what is wrong with it
    argv: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    given: str = ""  # what it needs: a method of `Given` in test_bad_input.py
    kind: str = ""  # of what is given
    process: bool = False  # run in its own process in the short form too
    slow: bool = False  # waits for a timeout
    leaves_empty: bool = False  # empty files and folders may remain

    @property
    def id(self) -> str:
        """A name for the test."""
        shown = " ".join(repr(a)[1:-1] if not a.isprintable() else a for a in self.argv if a not in SAMPLE)
        return f"{shown[:70]} ({self.what})"


def words(text: str, *more: str) -> tuple[str, ...]:
    """The words of a command."""
    return (*text.split(), *more)


def on_sample(text: str, *more: str) -> tuple[str, ...]:
    """The words of a command, on the embedded sample."""
    command, *rest = text.split()
    return (command, *SAMPLE, *rest, *more)


def values(command: str, option: str, what: str, *bad: str, says: Iterable[str] = (), more: str = "") -> Iterator[Row]:
    """A row for each bad value of an option; the message names the value."""
    sample = () if option == "--dataset" else SAMPLE
    for value in bad:
        shown = (repr(value)[:40].rstrip("'"),) if option == "--study" else (value,)
        yield Row(what, (command, *sample, *more.split(), option, value), 2, (*shown, *says))
