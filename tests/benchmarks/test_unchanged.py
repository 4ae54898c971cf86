"""The record of hashes: which trainings it holds, and that every difference is found."""

from __future__ import annotations

from collections import Counter

from benchmarks.unchanged import cases, differences


def test_each_experiment_and_placement_is_trained_in_each_precision_and_with_each_number_of_threads() -> None:
    groups = list(cases(quick=False))
    names = [case["name"] for group in groups for case in group]
    assert len(names) == len(set(names)) == 4 * (8 + 3 * 7) + 1
    ways = Counter((case["fields"]["precision"], case["threads"]) for group in groups for case in group)
    assert ways == {("fp32", 1): 30, ("fp32", 2): 29, ("bf16", 1): 29, ("bf16", 2): 29}


def test_the_quick_cases_are_some_of_all() -> None:
    everything = [case for group in cases(quick=False) for case in group]
    assert all(case in everything for group in cases(quick=True) for case in group)


def test_every_difference_is_found() -> None:
    then = {"one": {"history_sha256": "a", "weights_sha256": "b"}, "two": {"history_sha256": "c"}}
    assert list(differences(then, then, quick=False)) == []
    now = {"one": {"history_sha256": "a", "weights_sha256": "x"}, "three": {"history_sha256": "c"}}
    assert list(differences(then, now, quick=False)) == [
        "one: weights_sha256 was b, is x",
        "three: not in the record",
        "two: recorded, but not trained now",
    ]
    assert list(differences(then, {"one": then["one"]}, quick=True)) == []
