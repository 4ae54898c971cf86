"""Responses that replay real trainings, from the table that `search_table` has recorded.

A cell's true accuracy is the mean of its seeds at the last epoch. Between cells it is linear along both rates and along
log2 of the batch size, so that the best configuration is a cell. Linear, as the nearest cell would turn a search of
rates into one of 123 cells. A training has the true accuracy plus the deviation of a seed from its cell's mean: one of
the cells around is drawn by its weight in the interpolation, then one of its seeds, as often as a search asks. Poor
cells scatter twice as much as good ones, so the deviations are not pooled. They are widened by √(n / (n - 1)), as n
seeds lie too close to their own mean. A curve is that of a recorded training of the nearest cell, moved so that it ends
at the training's value.

The highest of 123 means of a few seeds is partly luck, and a search follows that luck. So there is a second kind of
response, in which the search sees all seeds but one, and the one left out is the truth. There the regret, against the
best cell of the seeds that the search sees, has no bias for the network behind the table; it may be below 0.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.search_table import NODES, TABLE
from sweeper.core.config import Placement

Array = npt.NDArray[np.float64]
REAL: Final = "real"
LEFT_OUT: Final = "real, seed {} left out"
AXES: Final = {name: dimension for name, dimension in NODES.dimensions.items() if name != "placement"}


@dataclass(frozen=True)
class Table:
    """All trainings of a placement: arrays (one dimension a name of `axes`, seeds, epochs)."""

    axes: Mapping[str, Array]
    accuracy: Array  # of validation, points
    loss: Array

    def point(self, params: Mapping[str, Any]) -> list[float]:
        """Return a configuration's place along the axes."""
        return [_along(name, params[name]) for name in self.axes]


@cache
def read_table() -> tuple[dict[str, Any], dict[str, Table]]:
    """Return what the recorded table says of itself, and its trainings by placement."""
    head, *entries = [json.loads(line) for line in gzip.decompress(TABLE.read_bytes()).splitlines()]
    tables = {}
    for placement in map(Placement, NODES.dimensions["placement"].extremes()):
        axes = {name: np.array([_along(name, each) for each in dimension.extremes()])
                for name, dimension in AXES.items() if name == "batch_size" or placement.uses(name)}  # fmt: skip
        shape = (*map(len, axes.values()), head["seeds"], head["base"]["epochs"])
        tables[placement.value] = Table(axes, np.full(shape, math.nan), np.full(shape, math.nan))
    for entry in entries:
        table = tables[entry["params"]["placement"]]
        place = (*_nearest(table, entry["params"]), entry["seed"])
        table.accuracy[place], table.loss[place] = 100 * np.array(entry["val_accuracy"]), entry["val_loss"]
    assert not any(np.isnan(table.accuracy).any() for table in tables.values()), "a cell lacks a seed"
    return head, tables


def recorded(name: str) -> Recorded:
    """Return the response of all seeds, or one that leaves a seed out.

    Raises:
        KeyError: there is none of this name.
    """
    seeds = range(read_table()[0]["seeds"])
    if name == REAL:
        return Recorded(list(seeds), list(seeds))
    out = {LEFT_OUT.format(seed): seed for seed in seeds}[name]
    return Recorded([seed for seed in seeds if seed != out], [out])


class Recorded:
    """Replay trainings of the seeds `seen`; the truth is the mean of the seeds `judging`."""

    def __init__(self, seen: Sequence[int], judging: Sequence[int]) -> None:
        self._tables = read_table()[1]
        self._seen = {name: table.accuracy[..., list(seen), :] for name, table in self._tables.items()}
        self._means = {name: values[..., -1].mean(-1) for name, values in self._seen.items()}
        self._truth = {name: table.accuracy[..., list(judging), -1].mean(-1) for name, table in self._tables.items()}
        wider = math.sqrt(len(seen) / (len(seen) - 1))
        self._deviations = {name: wider * (values[..., -1] - self._means[name][..., None])
                            for name, values in self._seen.items()}  # fmt: skip
        self.epochs = next(iter(self._seen.values())).shape[-1]

    @cached_property
    def noise(self) -> float:
        """Standard deviation between the seeds of a cell, over the better half of all cells."""
        means = np.concatenate([each.ravel() for each in self._means.values()])
        squares = np.concatenate([(each**2).mean(-1).ravel() for each in self._deviations.values()])
        return float(np.sqrt(squares[means >= np.median(means)].mean()))

    @cached_property
    def optimum(self) -> float:
        """The true accuracy of the cell with the highest mean."""
        name = max(self._means, key=lambda each: float(self._means[each].max()))
        return float(self._truth[name].ravel()[self._means[name].argmax()])

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return the accuracy of a configuration by the judging seeds."""
        placement = params["placement"]
        return sum(weight * float(self._truth[placement][cell]) for cell, weight in self._around(params))

    def trained(self, params: Mapping[str, Any], draw: float) -> float:
        """Return the accuracy of a training by the seeds that are seen: the draw's quantile of the deviations."""
        means, deviations = self._means[params["placement"]], self._deviations[params["placement"]]
        around = self._around(params)
        mean = sum(weight * float(means[cell]) for cell, weight in around)
        found = np.concatenate([deviations[cell] for cell, _ in around])
        shares = np.repeat([weight for _, weight in around], deviations.shape[-1])
        order = np.argsort(found)
        return mean + float(_pick(found[order], np.cumsum(shares[order]), draw))

    def curve(self, params: Mapping[str, Any], last: float, draws: Array) -> Array:
        """Return the curve of a recorded training beside it, moved to end at `last`."""
        curves = self._seen[params["placement"]][_nearest(self._tables[params["placement"]], params)]
        found = _pick(curves, np.arange(1, len(curves) + 1), draws[0])
        return np.asarray(found - found[-1] + last)

    def _around(self, params: Mapping[str, Any]) -> list[tuple[tuple[int, ...], float]]:
        """Return the cells around a configuration, with their weights in the linear interpolation."""
        table, ends = self._tables[params["placement"]], []
        for axis, value in zip(table.axes.values(), table.point(params), strict=True):
            upper = int(np.clip(np.searchsorted(axis, value), 1, len(axis) - 1))
            share = float((value - axis[upper - 1]) / (axis[upper] - axis[upper - 1]))
            ends.append(((upper - 1, 1 - share), (upper, share)))
        corners = (tuple(zip(*each, strict=True)) for each in itertools.product(*ends))
        return [(cell, math.prod(shares)) for cell, shares in corners]


def _along(name: str, value: float) -> float:
    return math.log2(value) if name == "batch_size" else float(value)


def _nearest(table: Table, params: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the indices of the nearest cell."""
    pairs = zip(table.axes.values(), table.point(params), strict=True)
    return tuple(int(np.abs(axis - value).argmin()) for axis, value in pairs)


def _pick(values: Array, shares: Array, draw: float) -> Any:
    """Return the one of `values`, whose `shares` are added up, at the quantile of `draw` in the normal distribution."""
    return values[min(len(values) - 1, int(np.searchsorted(shares, NormalDist().cdf(draw) * shares[-1])))]
