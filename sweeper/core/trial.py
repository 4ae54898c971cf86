"""A trial: its number and its configuration, and the seeds of its repetitions."""

from __future__ import annotations

from typing import Final, NamedTuple

from sweeper.core.config import RunConfig

SEEDS: Final = 2**31  # below which a seed lies
FRESH: Final = 1_000_000  # seeds above the base seed: beyond those of all repetitions in a search


class Trial(NamedTuple):
    """One trial to train: its number in the study, and its configuration.

    `repetition` counts the earlier trials that have the same parameters. Each is trained with its own seed.
    """

    number: int
    config: RunConfig
    repetition: int = 0


def repeat(config: RunConfig, times: int) -> RunConfig:
    """Return the configuration with the seed that lies `times` above its own, beyond the last one with the first."""
    return config.derive(seed=(config.seed + times) % SEEDS) if times else config
