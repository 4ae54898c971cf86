"""The search space: which fields of a run a study varies, and over what.

The default varies the placement of BatchNorm and Dropout, the conv and head rates where the
placement has them, and the batch size. A YAML file may name any of the fields below:

    placement: [none, bn, bn-dropout]          # a list is a choice
    model.width: [16, 32]                      # an argument of the network's factory
    head_dropout: {low: 0.0, high: 0.6}        # a range; add log: true for a logarithmic one
    batch_size: [64, 128]
    lr: {low: 1.0e-4, high: 1.0e-2, log: true}
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol, Self

import pydantic

from sweeper.core.config import ARGUMENT, MODELS, PLACES, PLAIN, Placement, RunConfig
from sweeper.core.errors import ConfigError, SpaceError

PAIRED: Final = (
    "placement",
    "batch_size",
    "model",
)  # BatchNorm takes not every batch size, a model not every placement
SEARCHABLE: Final = (
    "placement", "conv_dropout", "head_dropout", "batch_size", "lr", "weight_decay",
    "schedule", "augmentation", "model", "dropout_schedule",
)  # fmt: skip
OF_DROPOUT: Final = ("conv_dropout", "head_dropout", "dropout_schedule")

Finite = Annotated[pydantic.FiniteFloat, pydantic.Strict()]


class Suggests(Protocol):
    """The part of an Optuna trial that `suggest` needs."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of `choices`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a value in [low, high]."""


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[str | int | float, ...]

    def suggest(self, name: str, trial: Suggests) -> Any:
        """Let `trial` choose."""
        return trial.suggest_categorical(name, list(self.values))

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that must be valid for the whole dimension to be valid."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Check that `value` is one of the values, of the same type: Optuna knows it by both."""
        return any(type(value) is type(known) and value == known for known in self.values)

    def allowed(self) -> str:
        """Return the values for a message."""
        return f"one of {', '.join(map(str, self.values))}"

    def describe(self) -> Any:
        """Return the dimension as YAML would write it."""
        return list(self.values)


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Range:
    """A real interval, sampled uniformly or in the logarithm."""

    low: Finite
    high: Finite
    log: pydantic.StrictBool = False

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            rule = "low is above high" if self.low > self.high else "low must be above 0 for a logarithmic range"
            raise ValueError(f"low={self.low:g}, high={self.high:g}: {rule}")
        return self

    def suggest(self, name: str, trial: Suggests) -> float:
        """Let `trial` choose."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that must be valid for the whole dimension to be valid."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Check that `value` is a number of the interval."""
        return type(value) in (int, float) and self.low <= value <= self.high

    def allowed(self) -> str:
        """Return the limits for a message."""
        return f"{self.low:g} to {self.high:g}"

    def describe(self) -> Any:
        """Return the dimension as YAML would write it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Space:
    """The dimensions of a search, in the order in which they are asked."""

    dimensions: Mapping[str, Choice | Range]

    def suggest(self, base: RunConfig, trial: Suggests) -> RunConfig:
        """Ask `trial` for every dimension that the network has, and put the answers into `base`.

        A rate is asked only where the placement has Dropout there, and the schedule of Dropout where it has any, so
        that the sampler does not learn from values without effect.
        """
        fields: dict[str, Any] = {}
        for name, dimension in self._in_order():
            placement = Placement(fields.get("placement", base.placement))
            if not placement.uses(name):
                continue
            fields[name] = dimension.suggest(name, trial)
        return base.create(**(base.model_dump() | _default_rates(base, self) | fields))

    def _in_order(self) -> Iterator[tuple[str, Choice | Range]]:
        arguments = sorted(name for name in self.dimensions if name.startswith(ARGUMENT))
        return ((name, self.dimensions[name]) for name in (*SEARCHABLE, *arguments) if name in self.dimensions)

    def describe(self) -> dict[str, Any]:
        """Return the space as plain values, in the order of asking."""
        return {name: dimension.describe() for name, dimension in self._in_order()}

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> Space:
        """Return the space that `describe` has described."""
        return cls({name: Choice(tuple(v)) if isinstance(v, list) else Range(**v) for name, v in described.items()})

    def smallest_batch(self, config: RunConfig) -> RunConfig:
        """Return `config` with the smallest batch size of the search, which must fit the number of images."""
        sizes = self.dimensions["batch_size"].extremes() if "batch_size" in self.dimensions else (config.batch_size,)
        return config.derive(batch_size=min(sizes))

    def params_of(self, config: RunConfig) -> dict[str, Any]:
        """Return the values that `config` has in the dimensions, without rates that its placement does not use."""
        fields = config.model_dump(mode="json") | {f"{ARGUMENT}{k}": v for k, v in config.model_args}
        used = (name for name, _ in self._in_order() if config.placement.uses(name))
        return {name: fields[name] for name in used if name in fields}

    def outside(self, params: Mapping[str, Any]) -> str:
        """Describe the first value that is not in the space, and what is; empty if all are inside."""
        for name, value in params.items():
            dimension = self.dimensions.get(name)
            shown = f"{str(name)[:60]}={value!r:.60}"
            if dimension is None:
                return f"{shown!r}, which is not in the search space; its dimensions are {', '.join(self.dimensions)}"
            if not dimension.holds(value):
                return f"{shown!r}, which is not in the search space; use {dimension.allowed()}"
        return ""

    def validate(self, base: RunConfig) -> Space:
        """Return the space if every value it can suggest makes a valid run of `base`.

        Raises:
            SpaceError: one line that names the dimension and the value.
        """
        for model in self.dimensions["model"].extremes() if "model" in self.dimensions else ():
            if model not in MODELS:
                known = ", ".join(MODELS)
                raise SpaceError(f"search space: model={model!r:.60}: use {known}; name a factory with --model")
        for fields in self._corners():
            try:
                base.create(**(base.model_dump() | fields))
            except ConfigError as error:
                raise SpaceError(f"search space: {error}") from None
        self._check_rates(base)
        return self

    def _check_rates(self, base: RunConfig) -> None:
        """Refuse the dimension of a rate that no placement of the space uses."""
        placement = self.dimensions.get("placement")
        placements = [base.placement] if placement is None else [Placement(name) for name in placement.extremes()]
        for rate, place in PLACES.items():
            if rate in self.dimensions and not any(each.uses(rate) for each in placements):
                raise SpaceError(
                    f"search space: {rate}: placement {', '.join(placements)} has no Dropout in its {place}. Add one "
                    f"that has, or leave {rate} out."
                )
        if "dropout_schedule" in self.dimensions and not any(each.uses("dropout_schedule") for each in placements):
            raise SpaceError(
                f"search space: dropout_schedule: placement {', '.join(placements)} has no Dropout. Add one that has, "
                "or leave dropout_schedule out."
            )

    def networks(self, base: RunConfig) -> list[RunConfig]:
        """Return a configuration for each network that `base` becomes at one of the extremes."""
        found: dict[object, RunConfig] = {}
        for fields in ({}, *self._corners()):
            if fields.keys().isdisjoint(OF_DROPOUT):  # else it may have a placement that the space lacks
                config = base.create(**(base.model_dump() | fields))
                network = config.model, config.model_args, config.network_placement, config.batch_size == 1
                found.setdefault(network, config)
        return list(found.values())

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Return the fields to try: each extreme alone, and each placement with each batch size."""
        for name, dimension in self.dimensions.items():
            if name in OF_DROPOUT:  # in a placement in which it counts
                yield from ({"placement": Placement.DROPOUT, name: value} for value in dimension.extremes())
            elif name not in PAIRED:
                yield from ({name: value} for value in dimension.extremes())
        paired = [(n, self.dimensions[n].extremes()) for n in PAIRED if n in self.dimensions]
        for values in itertools.product(*(values for _, values in paired)):
            yield dict(zip((name for name, _ in paired), values, strict=True))


def cells(space: Space, placement: Placement) -> list[dict[str, Any]]:
    """Return every combination of a space of lists, without the rates that its placement lacks.

    `placement` is that of a space that does not vary it.

    Raises:
        SpaceError: a dimension is a range.
    """
    found: list[dict[str, Any]] = [{}]
    for name, dimension in ((name, space.dimensions[name]) for name in space.describe()):
        if isinstance(dimension, Range):
            raise SpaceError(
                f"search space: {name} is a range, but a grid needs a list. Give one, for example "
                f"{name}: [{dimension.low:g}, {dimension.high:g}], or choose another --sampler."
            )
        asked = [Placement(cell.get("placement", placement)).uses(name) for cell in found]
        found = [
            cell | ({name: value} if has else {})
            for cell, has in zip(found, asked, strict=True)
            for value in (dimension.values if has else dimension.values[:1])
        ]
    return found


def default_space(placements: Sequence[Placement] = PLAIN) -> Space:
    """Return the space that the article suggests to explore: placement, rates and batch size.

    A network that places its own layers has only the batch size.
    """
    rates = {"conv_dropout": Range(0.02, 0.4), "head_dropout": Range(0.05, 0.6)}
    placement = {"placement": Choice(tuple(p.value for p in placements))} if Placement.OWN not in placements else {}
    used = {rate: span for rate, span in rates.items() if any(each.uses(rate) for each in placements)}
    return Space({**placement, **used, "batch_size": Choice((32, 64, 128, 256, 512))})


def _default_rates(base: RunConfig, space: Space) -> dict[str, float]:
    """Return rates for the placements that have them, where the space varies the placement but not the rates."""
    if "placement" not in space.dimensions:
        return {}
    return {
        name: getattr(base, name) if base.placement.uses(name) else RunConfig.model_fields[name].default
        for name in PLACES
        if name not in space.dimensions
    }
