"""The search space: which fields of a run a study varies, and over what.

The default varies the placement of BatchNorm and Dropout, the conv and head rates where the
placement has them, and the batch size. A YAML file may name any of the fields below:

    placement: [none, bn, bn-dropout]          # a list is a choice
    head_dropout: {low: 0.0, high: 0.6}        # a range; add log: true for a logarithmic one
    batch_size: [64, 128]
    lr: {low: 1.0e-4, high: 1.0e-2, log: true}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from sweeper.config import Placement, RunConfig
from sweeper.errors import ConfigError, SpaceError

MAX_FILE_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 10
PAIRED: Final = ("placement", "batch_size")  # BatchNorm does not take every batch size
REAL: Final = ("conv_dropout", "head_dropout", "lr", "weight_decay")
NUMBERS: Final = ("batch_size", *REAL)
SEARCHABLE: Final = (
    "placement", "conv_dropout", "head_dropout", "batch_size", "lr", "weight_decay",
    "schedule", "augmentation", "model",
)  # fmt: skip


class Suggests(Protocol):
    """What `suggest` needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A value in [low, high]."""


class Draw:
    """Suggests at random, the same each time for a seed; no study knows of it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`."""
        return self._random.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A value in [low, high], uniform, or uniform in the logarithm."""
        if log:
            return min(high, max(low, math.exp(self._random.uniform(math.log(low), math.log(high)))))
        return self._random.uniform(low, high)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[str | int | float, ...]

    def suggest(self, name: str, trial: Suggests) -> Any:
        """Let `trial` choose."""
        return trial.suggest_categorical(name, list(self.values))

    def extremes(self) -> tuple[Any, ...]:
        """Values that must be valid for the whole dimension to be valid."""
        return self.values

    def describe(self) -> Any:
        """As YAML would write it."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A real interval, sampled uniformly or in the logarithm."""

    low: float
    high: float
    log: bool = False

    def suggest(self, name: str, trial: Suggests) -> float:
        """Let `trial` choose."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[Any, ...]:
        """Values that must be valid for the whole dimension to be valid."""
        return (self.low, self.high)

    def describe(self) -> Any:
        """As YAML would write it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Space:
    """The dimensions of a search, in the order in which they are asked."""

    dimensions: Mapping[str, Choice | Range]

    def suggest(self, base: RunConfig, trial: Suggests) -> RunConfig:
        """Ask `trial` for every dimension that the network has, and put the answers into `base`.

        A rate is asked only where the placement has Dropout there, so that the sampler learns
        nothing from a number that changes nothing.
        """
        fields: dict[str, Any] = {}
        for name, dimension in self._in_order():
            placement = Placement(fields.get("placement", base.placement))
            if name == "conv_dropout" and not placement.has_conv_dropout:
                continue
            if name == "head_dropout" and not placement.has_head_dropout:
                continue
            fields[name] = dimension.suggest(name, trial)
        return base.create(**(base.model_dump() | _default_rates(base, self) | fields))

    def _in_order(self) -> Iterator[tuple[str, Choice | Range]]:
        return ((name, self.dimensions[name]) for name in SEARCHABLE if name in self.dimensions)

    def describe(self) -> dict[str, Any]:
        """The space as plain values, in the order of asking."""
        return {name: dimension.describe() for name, dimension in self._in_order()}

    @property
    def sha256(self) -> str:
        """Equal only for equal spaces."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def validate(self, base: RunConfig) -> Space:
        """Return the space if every value it can suggest makes a valid run of `base`.

        Raises:
            SpaceError: one line that names the dimension and the value.
        """
        for fields in self._corners():
            try:
                base.create(**(base.model_dump() | fields))
            except ConfigError as error:
                raise SpaceError(f"search space: {error}") from None
        return self

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Fields to try: each extreme alone, and each placement with each batch size."""
        for name, dimension in self.dimensions.items():
            if name in ("conv_dropout", "head_dropout"):  # in a placement in which the rate counts
                yield from ({"placement": Placement.DROPOUT, name: value} for value in dimension.extremes())
            elif name not in PAIRED:
                yield from ({name: value} for value in dimension.extremes())
        paired = [(n, self.dimensions[n].extremes()) for n in PAIRED if n in self.dimensions]
        for values in itertools.product(*(values for _, values in paired)):
            yield dict(zip((name for name, _ in paired), values, strict=True))


def default_space() -> Space:
    """Placement, rates and batch size: what the study tells its readers to experiment with."""
    return Space(
        {
            "placement": Choice(tuple(p.value for p in Placement)),
            "conv_dropout": Range(0.02, 0.4),
            "head_dropout": Range(0.05, 0.6),
            "batch_size": Choice((32, 64, 128, 256, 512)),
        }
    )


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


def _default_rates(base: RunConfig, space: Space) -> dict[str, float]:
    """Rates for the placements that have them, where the space varies the placement but not the rates."""
    if "placement" not in space.dimensions:
        return {}
    names = ("conv_dropout", "head_dropout")
    return {n: getattr(base, n) or RunConfig.model_fields[n].default for n in names if n not in space.dimensions}
