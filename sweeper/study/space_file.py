"""Search spaces from YAML files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

import yaml

from sweeper.core.errors import SpaceError
from sweeper.study.space import SEARCHABLE, Choice, Range, Space

MAX_FILE_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 10
REAL: Final = ("conv_dropout", "head_dropout", "lr", "weight_decay")
NUMBERS: Final = ("batch_size", *REAL)


def read_space(path: Path) -> Space:
    """Read a space from a YAML file.

    Raises:
        SpaceError: the file is missing, too large, not YAML, or not a space; one line.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise SpaceError(f"{path}: larger than {MAX_FILE_BYTES} bytes; a search space is a few lines")
    try:
        content = _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpaceError(f"{path}: not YAML: {' '.join(str(error).split())[:150]}") from None
    if not isinstance(content, dict) or not content:
        raise SpaceError(f"{path}: not a mapping of fields; the fields are {', '.join(SEARCHABLE)}")
    return Space({_field(path, name): _dimension(path, name, value) for name, value in content.items()})


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key may be given once only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader does it, after a look at the keys."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in keys.items() if times > 1]:
            raise ValueError(f"{twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def _parse(text: bytes) -> Any:
    """YAML by the safe loader, without aliases (a few of them can stand for gigabytes) and not deep (that is slow).

    Tags, as in `!!int 5`, are not allowed either: the loader takes what they promise for granted, and nobody needs one.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise ValueError("tags (!name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _field(path: Path, name: Any) -> str:
    if name not in SEARCHABLE:
        raise SpaceError(f"{path}: unknown field {str(name)[:60]!r}; the fields are {', '.join(SEARCHABLE)}")
    return str(name)


def _dimension(path: Path, name: str, value: Any) -> Choice | Range:
    if isinstance(value, list):
        return _choice(path, name, value)
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        return _range(path, name, value)
    raise SpaceError(f"{path}: {name}: neither a list of values nor {{low: …, high: …, log: …}}")


def _choice(path: Path, name: str, values: list[Any]) -> Choice:
    if not values:
        raise SpaceError(f"{path}: {name}: an empty choice; give at least one value")
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        raise SpaceError(f"{path}: {name}: choices are strings and numbers")
    if name in NUMBERS and (words := [v for v in values if isinstance(v, str)]):
        raise SpaceError(
            f"{path}: {name}: {words[0][:40]!r} is a string to YAML; write a number such as 64, 0.001 or 1.0e-3"
        )
    if len(set(values)) < len(values):
        raise SpaceError(f"{path}: {name}: a choice is listed twice")
    return Choice(tuple(values))


def _range(path: Path, name: str, value: dict[str, Any]) -> Range:
    low, high, log = value["low"], value["high"], value.get("log", False)
    if name not in REAL:
        raise SpaceError(f"{path}: {name}: takes a list of values, not a range")
    if not (_is_finite_number(low) and _is_finite_number(high)) or not isinstance(log, bool):
        raise SpaceError(
            f"{path}: {name}: low={low!r}, high={high!r}, log={log!r}: two finite numbers and true or false"
        )
    if low > high or (log and low <= 0):
        rule = "low must be above 0 for a logarithmic range" if low <= high else "low is above high"
        raise SpaceError(f"{path}: {name}: low={low}, high={high}: {rule}")
    return Range(float(low), float(high), log)


def _is_finite_number(value: Any) -> bool:
    """Not a string, such as 1e-4 is to YAML 1.1 (1.0e-4 is a number), and not an integer beyond all floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
