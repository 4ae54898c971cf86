"""A trial: its number and its configuration."""

from __future__ import annotations

from typing import NamedTuple

from sweeper.core.config import RunConfig


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `twin` is an earlier trial, complete, that trained the same network in the same way.
    """

    number: int
    config: RunConfig
    twin: int | None = None
