"""A trial: its number and its configuration."""

from __future__ import annotations

from typing import NamedTuple

from sweeper.core.config import RunConfig


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `twin` is the number of an earlier complete trial of which this one is a duplicate: the same network, trained the
    same way.
    """

    number: int
    config: RunConfig
    twin: int | None = None
