"""The share of pruned trials by placement, with its interval and its warning."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.core.intervals import accuracy_interval
from sweeper.report.sweep.pruned import pruned_by_placement, pruned_shares
from sweeper.report.sweep.rows import SweptTrial
from tests.support.swept import trial


def tried(placement: str, complete: int, pruned: int) -> list[SweptTrial]:
    states = ["complete"] * complete + ["pruned"] * pruned
    fields: dict[str, Any] = {"params": {"placement": placement}}
    return [trial(number, state=state, **fields) for number, state in enumerate(states)]


def test_the_share_of_a_placement_is_of_its_finished_trials() -> None:
    trials = [*tried("bn", 8, 2), *tried("dropout", 5, 15), trial(0, None, state="failed"), trial(1, params={})]
    first, second = pruned_shares(trials)
    assert first[:3] == ("dropout", 15, 20)
    assert second[:3] == ("bn", 2, 10)
    assert (second.low, second.high) == pytest.approx(accuracy_interval(0.2, 10))


def test_a_pruner_that_prefers_a_placement_is_named() -> None:
    words = str(pruned_by_placement([*tried("bn", 19, 1), *tried("dropout", 5, 15)]))
    assert "The pruner stopped dropout more often than bn: their intervals do not overlap." in words
    assert "[53, 89]" in words
    assert "more often" not in str(pruned_by_placement([*tried("bn", 3, 1), *tried("dropout", 1, 3)]))


def test_one_placement_is_compared_with_nothing() -> None:
    assert str(pruned_by_placement(tried("bn", 3, 3))) == ""
