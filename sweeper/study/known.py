"""Known configurations, which a sweep trains first: rows of a file, or the article's experiments."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.core.config import PLACES, Placement, RunConfig
from sweeper.core.errors import SpaceError
from sweeper.core.experiments import EXPERIMENTS, experiment
from sweeper.core.text import counted
from sweeper.study.space import Choice, Range, Space
from sweeper.study.space_file import parse_yaml, read_small

Params = Mapping[str, Any]


class Known(NamedTuple):
    """Values of some dimensions of a space; the sampler proposes the others."""

    source: str  # for people: a file and its row, or a study and its trial
    params: dict[str, Any]


def known_in_file(path: Path, space: Space, base: RunConfig) -> list[Known]:
    """Read configurations from a file: a YAML list of mappings, or CSV with a header, whose empty cells are left out.

    Raises:
        SpaceError: the file cannot be read, or a row is not in the space of `base`; one line that names the row.
    """
    text = read_small(path)
    rows = list(_csv_rows(path, text) if path.suffix.lower() == ".csv" else _yaml_rows(path, text))
    if not rows:
        raise SpaceError(f"{path}: no configurations. Write one per row, each value under the name of its dimension.")
    return [checked(f"{path.name}, row {number}", row, space, base) for number, row in enumerate(rows, 1)]


def known_experiments(space: Space) -> tuple[list[Known], dict[int, str]]:
    """Return the article's experiments that lie in the space, and the reason for each that does not.

    Only the dimensions of the space count: everything else is set by the study.
    """
    inside, left_out = [], {}
    for number in EXPERIMENTS:
        params = _as_in(space, space.params_of(experiment(number)))
        if reason := space.outside(params):
            left_out[number] = reason
        else:
            inside.append(Known(f"experiment {number}", params))
    return inside, left_out


def checked(source: str, params: Params, space: Space, base: RunConfig) -> Known:
    """Return a configuration with its values as the space of `base` writes them.

    Raises:
        SpaceError: the space does not have a value, or the placement has no Dropout at a rate; one line with `source`.
    """
    placement = params.get("placement", None if "placement" in space.dimensions else base.placement)
    params = _as_in(space, _used(source, params, placement))
    if reason := space.outside(params):
        raise SpaceError(f"{source}: {reason}")
    return Known(source, params)


def _used(source: str, params: Params, placement: Any) -> dict[str, Any]:
    """Return the values without rates of 0 and constant schedules of an absent Dropout; others of it are refused."""
    if placement not in tuple(Placement):  # none is given, or a wrong one
        return dict(params)
    unused = [name for name in params if not Placement(placement).uses(name)]
    for name in unused:
        if params[name] not in (0, "constant"):
            raise SpaceError(
                f"{source}: {name}={params[name]!r:.60}: placement {placement} has no Dropout in its "
                f"{PLACES.get(name, 'network')}. Leave {name} out."
            )
    return {name: value for name, value in params.items() if name not in unused}


def _as_in(space: Space, params: Params) -> dict[str, Any]:
    """Return the values with the type that they have in the space: 64 for 64.0 where 64 is a choice."""
    found = dict(params)
    for name, value in params.items():
        dimension = space.dimensions.get(name)
        if isinstance(dimension, Choice) and not isinstance(value, bool):
            found[name] = next((known for known in dimension.values if known == value), value)
        elif isinstance(dimension, Range) and dimension.holds(value):
            found[name] = float(value)
    return found


def _yaml_rows(path: Path, text: bytes) -> Sequence[Params]:
    rows = parse_yaml(path, text)
    if not isinstance(rows, list):
        raise SpaceError(f"{path}: not a list of configurations. Start each with '- ', as in - {{placement: bn}}.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row:
            raise SpaceError(f"{path.name}, row {number}: {row!r:.60}: not a mapping such as {{placement: bn}}")
    return rows


def _csv_rows(path: Path, text: bytes) -> Iterator[Params]:
    try:
        lines = [cells for cells in csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True) if cells]
    except (csv.Error, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: not CSV: {str(error)[:150]}") from None
    names = [name.strip() for name in lines[0]] if lines else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpaceError(f"{path}: column {twice[0][:60]!r} appears twice. Delete one.")
    for number, cells in enumerate(lines[1:], 1):
        if len(cells) != len(names):
            counts = f"{counted(len(cells), 'value')} for {counted(len(names), 'column')}"
            raise SpaceError(f"{path.name}, row {number}: {counts}")
        row = {name: _value(cell.strip()) for name, cell in zip(names, cells, strict=True) if cell.strip()}
        if not row:
            raise SpaceError(f"{path.name}, row {number}: no values. Delete the row.")
        yield row


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
