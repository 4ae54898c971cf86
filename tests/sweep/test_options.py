"""The search space of a command line: the default one, `--vary`, and the fields that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import PLAIN, RunConfig
from sweeper.core.errors import SpaceError
from sweeper.study.space import Choice, Range
from sweeper.sweep.options import search_space

LR = Range(1e-4, 1e-2, log=True)


@pytest.mark.parametrize(
    ("fixed", "varied", "dimensions"),
    [
        ({}, [], ["placement", "conv_dropout", "head_dropout", "batch_size"]),
        ({"lr": 1e-3}, [], ["placement", "conv_dropout", "head_dropout", "batch_size"]),
        ({"placement": "bn"}, [], ["batch_size"]),
        ({"placement": "bn-head-dropout"}, [], ["head_dropout", "batch_size"]),
        ({"batch_size": 64, "conv_dropout": 0.2}, [], ["placement", "head_dropout"]),
        ({}, [("placement", "none,bn")], ["placement", "batch_size"]),
        ({"placement": "bn", "batch_size": 64}, [("lr", "1e-4..1e-2:log")], ["lr"]),
        (
            {"placement": "bn-dropout", "dropout_schedule": "early", "dropout_switch": 1},
            [("dropout_schedule", "early,late")],
            ["conv_dropout", "head_dropout", "batch_size", "dropout_schedule"],
        ),
    ],
)
def test_a_given_field_leaves_the_default_space_and_vary_adds_to_it(
    fixed: dict[str, Any], varied: list[tuple[str, str]], dimensions: list[str]
):
    space = search_space(None, PLAIN, varied, fixed)
    assert list(space.describe()) == dimensions
    assert space.validate(RunConfig(**fixed)) is space


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("1e-4..1e-2:log", LR),
        ("0..0.5", Range(0.0, 0.5)),
        ("1e-4,1e-3", Choice((1e-4, 1e-3))),
        ("1e-3", Choice((1e-3,))),
    ],
)
def test_vary_takes_ranges_and_lists(text: str, dimension: Range | Choice):
    assert search_space(None, PLAIN, [("lr", text)]).dimensions["lr"] == dimension


def test_vary_adds_to_the_space_of_a_file(tmp_path: Path):
    (tmp_path / "space.yaml").write_text("placement: [none, bn]")
    space = search_space(tmp_path / "space.yaml", PLAIN, [("lr", "1e-4..1e-2:log"), ("model.width", "16,32")])
    assert space.dimensions == {"placement": Choice(("none", "bn")), "lr": LR, "model.width": Choice((16, 32))}


def test_a_rate_that_is_given_is_that_of_every_placement_that_has_it():
    space = search_space(None, PLAIN, [], {"conv_dropout": 0.0})
    base = RunConfig(placement="bn-dropout", conv_dropout=0.0)
    assert space.suggest(base, Fixed({"placement": "dropout", "head_dropout": 0.1, "batch_size": 32})).conv_dropout == 0


class Fixed(dict[str, Any]):
    """A trial with the values of a mapping."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self[name])


@pytest.mark.parametrize(
    ("fixed", "varied", "said"),
    [
        ({"lr": 1e-3}, [("lr", "1e-4,1e-3")], "--lr fixes a value that --vary varies"),
        ({}, [("lr", "1e-4"), ("lr", "1e-3")], "--vary lr: given twice"),
        ({}, [("epochs", "1,2")], "--vary: unknown field 'epochs'"),
        ({}, [("lr", "1e-2..1e-4")], "low is above high"),
        ({}, [("lr", "[")], "--vary lr: not YAML"),
        ({}, [("batch_size", "1..3")], "takes a list"),
        ({"placement": "bn", "batch_size": 64}, [], "nothing is left to vary"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_in_one_line(
    fixed: dict[str, Any], varied: list[tuple[str, str]], said: str
):
    with pytest.raises(SpaceError, match=f"^[^\n]*{said.replace('[', '.')}[^\n]*$"):
        search_space(None, PLAIN, varied, fixed)


def test_a_field_of_a_file_can_neither_be_given_nor_varied_again(tmp_path: Path):
    (tmp_path / "space.yaml").write_text("lr: [1e-3, 1e-2]")
    with pytest.raises(SpaceError, match=r"--lr fixes a value that .*space.yaml varies"):
        search_space(tmp_path / "space.yaml", PLAIN, [], {"lr": 1e-3})
    with pytest.raises(SpaceError, match=r"--vary lr: .*space.yaml varies it too"):
        search_space(tmp_path / "space.yaml", PLAIN, [("lr", "1e-3")])
