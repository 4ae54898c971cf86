"""The seeds of repetitions."""

from __future__ import annotations

from sweeper.core.config import RunConfig
from sweeper.core.trial import SEEDS, repeat


def test_a_repetition_has_a_later_seed_and_after_the_last_one_the_first():
    config = RunConfig(seed=SEEDS - 2)
    assert [repeat(config, times).seed for times in range(3)] == [SEEDS - 2, SEEDS - 1, 0]
    assert repeat(config, 2) == config.derive(seed=0)
