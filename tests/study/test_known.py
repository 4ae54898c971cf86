"""Known configurations: what is read from a file, a study and the article, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import SpaceError
from sweeper.study.known import Known, checked, known_experiments, known_in_file
from sweeper.study.space import Choice, Range, Space, default_space
from tests.support.refusals import refusal

SPACE = Space({"conv_dropout": Choice((0, 0.1)), "lr": Range(1e-4, 1e-2), "model": Choice(("small", "medium"))})


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Known]]:
    """Writes a file and reads the configurations in it."""

    def read(name: str, text: str, space: Space | None = None) -> list[Known]:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return known_in_file(path, space or default_space(), RunConfig(placement="dropout"))

    return read


YAML = """
- {placement: bn-dropout, conv_dropout: 0.1, head_dropout: 3e-1, batch_size: 64}
- placement: none
- {placement: bn, conv_dropout: 0, head_dropout: 0.0, batch_size: 64.0}
"""
CSV = """placement, conv_dropout,head_dropout,batch_size
bn-dropout,0.1,3e-1,64

"none",,,
bn,0,0.0,64.0
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", YAML), ("a.csv", CSV), ("A.CSV", "\ufeff" + CSV.replace("\n", "\r\n"))],
    ids=["YAML", "CSV", "CSV of a spreadsheet"],
)
def test_a_row_is_a_configuration_and_may_leave_dimensions_out(read: Any, name: str, text: str) -> None:
    rows = read(name, text)
    assert [known.params for known in rows] == [
        {"placement": "bn-dropout", "conv_dropout": 0.1, "head_dropout": 0.3, "batch_size": 64},
        {"placement": "none"},
        {"placement": "bn", "batch_size": 64},  # whose rates of 0 no network has
    ]
    assert type(rows[2].params["batch_size"]) is int  # as the space has it, and Optuna compares it
    assert rows[1].source == f"{name}, row 2"


def test_values_have_the_type_that_they_have_in_the_space(read: Any) -> None:
    (known,) = read("a.csv", "conv_dropout,lr\n0.0,0.01\n", SPACE)
    assert [(value, type(value)) for value in known.params.values()] == [(0, int), (0.01, float)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{batch_size: 48}", "'batch_size=48', which is not in the search space; use one of 32, 64"),
        ("{batch_size: '64'}", "not in the search space; use one of 32"),
        ("{placement: bn-drop}", "bn-drop"),
        ("{placement: [bn]}", "not in the search space"),
        ("{conv_dropout: 0.9}", "'conv_dropout=0.9', which is not in the search space; use 0.02 to 0.4"),
        ("{conv_dropout: true}", "'conv_dropout=True', which is not in the search space"),
        ("{conv_dropout: .nan}", "'conv_dropout=nan', which is not in the search space"),
        ("{conv_dropout: null}", "'conv_dropout=None', which is not in the search space"),
        ("{lr: 0.001}", "'lr=0.001', which is not in the search space; its dimensions are placement, conv_dropout"),
        ("{1: 2}", "'1=2', which is not in the search space"),
        ("{placement: bn, conv_dropout: 0.1}", "conv_dropout=0.1: placement bn has no Dropout in its convolutions"),
        ("{placement: none, head_dropout: x}", "head_dropout='x': placement none has no Dropout in its head"),
        ("{}", "{}: not a mapping"),
        ("bn", "'bn': not a mapping"),
    ],
)
def test_a_row_outside_the_space_is_refused_by_its_file_number_and_value(read: Any, row: str, says: str) -> None:
    message = refusal(lambda: read("mine.yaml", f"- {{placement: bn}}\n- {row}\n"), SpaceError)
    assert message.startswith("mine.yaml, row 2: ")
    assert says in message


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "placement: bn", "not a list"),
        ("a.yaml", "", "not a list"),
        ("a.yaml", "[]", "no configuration"),
        ("a.yaml", "- {placement: *a}", "aliases"),
        ("a.yaml", f"- {{batch_size: 0x{'f' * 5_000}}}", "longer than 1000 characters"),
        ("a.yaml", "- {placement: bn}\n" * 1_000, "larger than"),
        ("a.csv", "placement\n" + "bn\n" * 10_000, "larger than"),
        ("a.csv", "", "no configuration"),
        ("a.csv", "placement\n", "no configuration"),
        ("a.csv", "placement,placement\nbn,bn\n", "column 'placement' appears twice"),
        ("a.csv", "placement,batch_size\nbn,64\nbn\n", "row 2: 1 value for 2 columns"),
        ("a.csv", "placement,batch_size\n,\n", "row 1: no value"),
        ("a.csv", 'placement\n"bn\n', "not CSV"),
        ("a.csv", "placement,,\nbn,1,\n", "column '' appears twice"),
        ("a.csv", f"batch_size\n{'9' * 5_000}\n", "row 1: 'batch_size=inf', which is not in the search space"),
    ],
)
def test_a_file_of_another_kind_is_refused(read: Any, name: str, text: str, says: str) -> None:
    assert says in refusal(lambda: read(name, text), SpaceError)


def test_a_csv_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"placement\n\xff\n")
    assert "not CSV" in refusal(lambda: known_in_file(tmp_path / "a.csv", SPACE, RunConfig()), SpaceError)


def test_the_placement_of_the_study_decides_where_the_space_has_none(read: Any) -> None:
    space = Space({"conv_dropout": Range(0.0, 0.5)})
    assert checked("", {"conv_dropout": 0.1}, space, RunConfig(placement="ic")).params == {"conv_dropout": 0.1}
    assert "placement bn" in refusal(
        lambda: checked("", {"conv_dropout": 0.1}, space, RunConfig(placement="bn")), SpaceError
    )
    assert checked("", {"conv_dropout": 0.1}, default_space(), RunConfig(placement="bn")).params  # it may be proposed


def test_all_eight_experiments_lie_in_the_default_space() -> None:
    inside, left_out = known_experiments(default_space())
    assert [known.source for known in inside] == [f"experiment {number}" for number in range(1, 9)]
    assert not left_out
    assert inside[0].params == {"placement": "none", "batch_size": 128}
    assert inside[7].params == {"placement": "bn-head-dropout", "head_dropout": 0.4, "batch_size": 256}


def test_experiments_with_other_values_are_left_out_with_the_reason() -> None:
    inside, left_out = known_experiments(SPACE)
    assert [known.params for known in inside] == [
        {"lr": 0.001, "model": "small"},
        *[{"lr": 0.001, "model": "medium"}] * 3,
        *[{"conv_dropout": 0.1, "lr": 0.001, "model": "medium"}] * 3,
    ]
    assert left_out == {8: "\"model='large'\", which is not in the search space; use one of small, medium"}
