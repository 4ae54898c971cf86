"""Space files: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import SpaceError
from sweeper.study.space import Choice, Range, Space
from sweeper.study.space_file import MAX_FILE_BYTES, read_space
from tests.support.refusals import refusal


@pytest.fixture
def yaml(tmp_path: Path) -> Any:
    """Writes a space file and reads it."""

    def read(text: str | bytes) -> Space:
        path = tmp_path / "space.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_space(path)

    return read


@pytest.mark.parametrize(
    ("text", "dimensions"),
    [
        ("placement: [none, bn]", {"placement": Choice(("none", "bn"))}),
        ("batch_size: [64, 128]", {"batch_size": Choice((64, 128))}),
        ("head_dropout: {low: 0, high: 0.6}", {"head_dropout": Range(0.0, 0.6)}),
        ("lr: {low: 1.0e-4, high: 1.0e-2, log: true}", {"lr": Range(1e-4, 1e-2, log=True)}),
        ("lr: {low: 1e-4, high: 1E-2}", {"lr": Range(1e-4, 1e-2)}),
        ("lr: [1e-3, .5e-2, 1.e-4]", {"lr": Choice((1e-3, 5e-3, 1e-4))}),
        ("lr:\n  low: 0.001\n  high: 0.001\n", {"lr": Range(0.001, 0.001)}),
        ('model: ["small"] # why\nschedule: [cosine]', {"model": Choice(("small",)), "schedule": Choice(("cosine",))}),
    ],
)
def test_a_good_file_is_read(yaml: Any, text: str, dimensions: dict[str, Choice | Range]) -> None:
    assert yaml(text) == Space(dimensions)
    assert yaml(text).validate(RunConfig()).describe() == Space(dimensions).describe()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropout: [0.1]", "unknown field 'dropout'; the fields are placement, conv_dropout"),
        ("1: [0.1]", "unknown field '1'"),
        ("epochs: [1, 2]", "unknown field 'epochs'"),
        ('"lr\\nx": [0.1]', "unknown field"),
        ("lr: {low: .nan, high: 1.0}", "lr: low=nan; write a finite number"),
        ("lr: {low: 0.1, high: .inf}", "lr: high=inf; write a finite number"),
        ("lr: {low: false, high: true}", "lr: low=False; write a finite number"),
        ("lr: {low: 0.1, high: 1.0, log: 1}", "lr: log must be true or false"),
        (
            'lr: {low: "1e-4", high: 1.0}',
            "lr: low='1e-4' is a string in YAML; write a finite number such as 64, 0.001 or 1e-3",
        ),
        ("lr: {low: 1e-4, high: 1e999}", "write a finite number"),
        ("lr: []", "empty choice"),
        ("lr: {low: 2.0, high: 1.0}", "low is above high"),
        ("lr: {low: 0, high: 1.0, log: true}", "low must be above 0"),
        ("lr: {low: 0.1}", "neither a list of values nor"),
        ("lr: {low: 0.1, high: 1.0, step: 0.1}", "neither a list of values nor"),
        ("lr: 0.1", "neither a list of values nor"),
        ("lr:", "neither a list of values nor"),
        ("model: [yes, no]", "model: the choices must be strings; put words such as yes into quotes"),
        ("model: [[small]]", "choices must be strings"),
        ("model: [null]", "choices must be strings"),
        ("lr: [2001-01-01]", "write a finite number"),
        ("batch_size: [64, 128, 64]", "listed twice"),
        ("placement: {low: 0, high: 1}", "takes a list of values, not a range"),
        ("batch_size: {low: 32, high: 64}", "takes a list of values, not a range"),
        ("lr: [0.1", "not YAML"),
        ("lr: [0.1]\n---\nlr: [0.2]", "not YAML"),
        ("lr: !!python/object/apply:os.getcwd []", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"PK\x03\x04\x00\x00", "not YAML"),
        ("[" * 300, "not YAML"),
        ("[" * 600 + "]" * 600, "not YAML"),
        ("lr: [" + "9" * 5_000 + "]", "not YAML"),
        ("? [a]\n: [0.1]", "not YAML"),
        ("lr: &l [0.1]\nweight_decay: *l", "aliases"),
        (BOMB, "aliases"),
        ("lr: &l [*l]", "aliases"),
        ("", "not a mapping"),
        ("{}", "not a mapping"),
        ("- lr", "not a mapping"),
        ("lr", "not a mapping"),
        ("#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_file_is_refused_in_one_line(yaml: Any, text: str | bytes, said: str) -> None:
    assert said in refusal(lambda: yaml(text), SpaceError)


def test_a_file_of_the_largest_size_is_read(yaml: Any) -> None:
    space = "lr: [0.1]\n"
    assert yaml(space + "#" * (MAX_FILE_BYTES - len(space))) == Space({"lr": Choice((0.1,))})


@pytest.mark.parametrize(("name", "said"), [("missing.yaml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str, said: str) -> None:
    assert said in refusal(lambda: read_space(tmp_path / name), SpaceError)


def test_a_bound_beyond_all_floats_is_refused_in_one_line(yaml: Any) -> None:
    with pytest.raises(SpaceError):
        yaml("lr: {low: 1, high: " + "9" * 400 + "}")


def test_a_field_given_twice_is_refused(yaml: Any) -> None:
    with pytest.raises(SpaceError):
        yaml("placement: [none]\nplacement: [bn]")
