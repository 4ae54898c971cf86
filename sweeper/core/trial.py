"""A trial: its number and its configuration."""

from __future__ import annotations

from typing import NamedTuple

from sweeper.core.config import RunConfig


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `duplicate_of` is the number of an earlier, complete trial that trained the same network in the same way.
    """

    number: int
    config: RunConfig
    duplicate_of: int | None = None
