"""The edges of a search space."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.study.edges import edges
from sweeper.study.space import Choice, Range, Space

SPACE = Space(
    {
        "placement": Choice(("bn", "ic")),
        "conv_dropout": Range(0.0, 0.4),
        "head_dropout": Range(0.1, 0.6),
        "batch_size": Choice((128, 32, 64)),
        "lr": Range(1e-4, 1e-2, log=True),
        "weight_decay": Range(0.1, 0.1),
    }
)
SEARCHED = "of the range searched"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"batch_size": 32}, "The best batch size, 32, is the smallest value searched: try smaller ones."),
        ({"batch_size": 128}, "The best batch size, 128, is the largest value searched: try larger ones."),
        ({"batch_size": 64}, None),
        ({"head_dropout": 0.12}, f"The best head dropout, 0.12, is at the lower end {SEARCHED}, 0.1 to 0.6: try sm"),
        ({"head_dropout": 0.58}, f"The best head dropout, 0.58, is at the upper end {SEARCHED}, 0.1 to 0.6: try la"),
        ({"head_dropout": 0.13}, None),
        ({"lr": 0.008}, f"The best lr, 0.008, is at the upper end {SEARCHED}, 0.0001 to 0.01: try larger values."),
        ({"lr": 0.005}, None),  # a logarithmic range: in the middle of it lies 0.001
        ({"conv_dropout": 0.01}, None),  # the range begins at 0
        ({"conv_dropout": 0.39}, "The best conv dropout, 0.39, is at the upper end"),
        ({"weight_decay": 0.1}, None),  # it was not searched
        ({"placement": "bn", "epochs": 3}, None),
    ],
)
def test_a_number_at_an_edge_is_remarked_on(params: dict[str, Any], words: str | None) -> None:
    found = edges(SPACE, params)
    assert len(found) == (words is not None)
    assert all(remark.startswith(words or "") for remark in found)


def test_no_smaller_batch_is_advised_than_batch_norm_takes() -> None:
    assert edges(Space({"batch_size": Choice((2, 4))}), {"batch_size": 2}) == []
    assert edges(Space({"batch_size": Choice((64,))}), {"batch_size": 64}) == []
