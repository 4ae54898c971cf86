"""A trial: its number and its configuration."""

from __future__ import annotations

from typing import NamedTuple

from sweeper.core.config import RunConfig


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `repetition` counts the earlier trials that have the same parameters. Each is trained with a seed of its own.
    """

    number: int
    config: RunConfig
    repetition: int = 0
