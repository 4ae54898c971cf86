"""A Gaussian process over the whole search space: a model of the metric, and the most promising configuration.

A placement without a Dropout layer lacks that layer's rate. Optuna's samplers of a joint space leave such rates out of
their model, and draw them at random. This model holds all dimensions at once:

    k(x, x') = s² ∏_d (1 + a_d k_d(x_d, x'_d)) / (1 + a_d)

Multiplied out, it is a sum over all sets of dimensions: an effect of each alone, which trials of all placements share,
and interactions (additive Gaussian processes: Duvenaud, Nickisch and Rasmussen 2011, arXiv 1112.4394). k_d is 1 for
equal words and 0 for others, exp(-(x_d - x'_d)² / 2l_d²) for numbers; a rate that is lacking resembles only itself.
The parameters s², a_d, l_d and the noise's variance maximise the posterior density, with log-normal priors. The higher
a value, the better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sweeper.core.config import Placement
from sweeper.study.space import Choice, Range, Space

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

RANDOM: Final = 512  # candidates from the whole space
BESIDE: Final = 64  # candidates near each of the best
CENTRES: Final = 5
HOPEFUL: Final = 250  # candidates whose joint posterior is drawn
WINSOR: Final = 1.5  # a value lies at most this many times the distance from the median to the best below the median
JITTER: Final = 1e-6  # of the diagonal
ITERATIONS: Final = 20  # of the fit; more of them found nothing better
# Priors of the logarithms, mean and standard deviation; the values have mean 0 and variance 1, numbers lie in [0, 1]
SCALE: Final = (0.0, 1.0)
WEIGHT: Final = (0.0, 1.0)
LENGTH: Final = (math.log(0.5), 0.5)
NOISE: Final = (math.log(0.1), 1.0)
BOUND: Final = 4.0  # of a logarithm, from its prior's mean


@dataclass(frozen=True)
class Points:
    """Configurations as the model sees them, (n, dimensions): numbers in [0, 1] or indices of words; what is there."""

    x: Array
    there: Mask

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Points:
        return Points(self.x[rows], self.there[rows])


def join(*points: Points) -> Points:
    """Return the points of all, in order."""
    return Points(np.concatenate([p.x for p in points]), np.concatenate([p.there for p in points]))


class Grid:
    """The dimensions of a space as axes of the model. Numbers of a list are evenly spaced, in their order."""

    def __init__(self, space: Space, placement: Placement) -> None:
        self._dimensions = [(name, space.dimensions[name]) for name in space.describe()]
        self.names = [name for name, _ in self._dimensions]
        self._levels = [_levels(dimension) for _, dimension in self._dimensions]
        self.words = [levels is not None and isinstance(levels[0], str) for levels in self._levels]
        self._axis = self.names.index("placement") if "placement" in self.names else None
        placements = self._levels[self._axis] if self._axis is not None else [placement]
        self._has = np.array([[Placement(each).uses(name) for name in self.names] for each in placements or ()])

    def encode(self, params: Sequence[Mapping[str, Any]]) -> Points:
        """Return the parameters of trials as points."""
        there = np.array([[name in each for name in self.names] for each in params]).reshape(-1, len(self.names))
        x = np.zeros(there.shape)
        for row, each in enumerate(params):
            for column, name in enumerate(self.names):
                if name in each:
                    x[row, column] = self._encode(column, each[name])
        return Points(x, there)

    def _encode(self, column: int, value: Any) -> float:
        levels, dimension = self._levels[column], self._dimensions[column][1]
        if levels is not None:
            index = levels.index(value)
            return float(index) if self.words[column] else index / max(1, len(levels) - 1)
        low, high, value = _ends(dimension, value)
        return float((value - low) / (high - low))

    def decode(self, point: Points) -> dict[str, Any]:
        """Return the parameters of one point."""
        return {name: self._decode(i, float(point.x[i])) for i, name in enumerate(self.names) if point.there[i]}

    def _decode(self, column: int, x: float) -> Any:
        levels, dimension = self._levels[column], self._dimensions[column][1]
        if levels is not None:
            return levels[round(x if self.words[column] else x * (len(levels) - 1))]
        low, high, _ = _ends(dimension, 1.0)
        value = low + x * (high - low)
        assert isinstance(dimension, Range)
        return min(max(math.exp(value) if dimension.log else value, dimension.low), dimension.high)

    def spread(self, unit: Array) -> Points:
        """Return uniform numbers, (n, dimensions), as points that are uniform over the space."""
        x = unit.copy()
        for column, levels in enumerate(self._levels):
            if levels is not None:
                index = np.minimum(np.floor(unit[:, column] * len(levels)), len(levels) - 1)
                x[:, column] = index if self.words[column] else index / max(1, len(levels) - 1)
        return self._present(x)

    def beside(self, centres: Points, draw: np.random.Generator) -> Points:
        """Return points near the given ones, most of them with the same words."""
        near = centres[np.repeat(np.arange(len(centres)), BESIDE)]
        x, other = near.x.copy(), self.spread(draw.random(near.x.shape)).x
        width = np.exp(draw.uniform(math.log(0.02), math.log(0.3), (len(x), 1)))
        for column, levels in enumerate(self._levels):
            step = draw.normal(0.0, 1.0, len(x)) * width[:, 0]
            if self.words[column]:
                x[:, column] = np.where(draw.random(len(x)) < 0.1, other[:, column], x[:, column])
            elif levels is not None:
                gap = max(1, len(levels) - 1)
                x[:, column] = np.clip(np.round(x[:, column] * gap + draw.choice([-1, 0, 0, 1], len(x))), 0, gap) / gap
            else:
                x[:, column] = np.where(near.there[:, column], np.clip(x[:, column] + step, 0, 1), other[:, column])
        return self._present(x)

    def _present(self, x: Array) -> Points:
        index = np.zeros(len(x), int) if self._axis is None else x[:, self._axis].astype(int)
        there = self._has[index]
        return Points(np.where(there, x, 0.0), there)


def _levels(dimension: Choice | Range) -> list[Any] | None:
    """Return the values of a list, numbers in order; None for a range, unless it is of a single value."""
    if isinstance(dimension, Range):
        return [dimension.low] if dimension.low == dimension.high else None
    return list(dimension.values) if isinstance(dimension.values[0], str) else sorted(dimension.values)


def _ends(dimension: Choice | Range, value: float) -> tuple[float, float, float]:
    assert isinstance(dimension, Range)
    ends = (dimension.low, dimension.high, value)
    return (math.log(ends[0]), math.log(ends[1]), math.log(ends[2])) if dimension.log else ends


class _Kernel:
    """The kernel between two sets of points, as a function of the logarithms of s², a_d and l_d."""

    def __init__(self, words: Sequence[bool], one: Points, other: Points) -> None:
        self.words = words
        both = one.there[:, None, :] & other.there[None, :, :]
        neither = ~one.there[:, None, :] & ~other.there[None, :, :]
        gap = one.x[:, None, :] - other.x[None, :, :]
        self._fixed = [
            np.where(both[..., d], gap[..., d] == 0, neither[..., d]).astype(float) for d in range(len(words))
        ]
        self._both = [both[..., d] for d in range(len(words))]
        self._squared = [np.where(self._both[d], gap[..., d] ** 2, 0.0) for d in range(len(words))]

    def __call__(self, theta: Array) -> Array:
        return np.asarray(math.exp(theta[0]) * np.prod([factor for factor, _ in self._factors(theta)], axis=0))

    def _factors(self, theta: Array) -> list[tuple[Array, Array]]:
        """Return the factor and k_d of each dimension."""
        found, length = [], 1 + len(self.words)
        for d, is_word in enumerate(self.words):
            k, weight = self._fixed[d], math.exp(theta[1 + d])
            if not is_word:
                k = np.where(self._both[d], np.exp(-0.5 * self._squared[d] * math.exp(-2 * theta[length])), k)
                length += 1
            found.append(((1 + weight * k) / (1 + weight), k))
        return found

    def gradient(self, theta: Array) -> tuple[Array, list[Array]]:
        """Return the kernel and its derivatives by theta."""
        factors = self._factors(theta)
        kernel = math.exp(theta[0]) * np.prod([factor for factor, _ in factors], axis=0)
        weights: list[Array] = []
        lengths: list[Array] = []
        for d, (factor, k) in enumerate(factors):
            rest, weight = kernel / factor, math.exp(theta[1 + d])
            weights.append(rest * (weight * k / (1 + weight) - factor * weight / (1 + weight)))
            if not self.words[d]:
                scaled = self._squared[d] * math.exp(-2 * theta[1 + len(self.words) + len(lengths)])
                lengths.append(rest * weight * k * scaled / (1 + weight))
        return kernel, [kernel, *weights, *lengths]


class Surrogate:
    """The model, given points and their values."""

    def __init__(self, words: Sequence[bool], points: Points, values: Array, iterations: int = ITERATIONS) -> None:
        from scipy.linalg import cho_solve

        self._words, self.points = words, points
        middle, best = float(np.median(values)), float(values.max())
        if best > middle:  # a few runs that failed to learn would flatten everything else
            values = np.maximum(values, middle - WINSOR * (best - middle))
        self._mean, self._unit = float(values.mean()), max(float(values.std()), 1e-9)
        self._values = (values - self._mean) / self._unit
        self._theta = self._fit(iterations)
        noise = math.exp(self._theta[-1])
        kernel = _Kernel(words, points, points)(self._theta[:-1])
        self._root = np.linalg.cholesky(kernel + (noise + JITTER) * np.eye(len(points)))
        self._weights = cho_solve((self._root, True), self._values)

    @property
    def noise(self) -> float:
        """The standard deviation between runs of one configuration, as the model estimates it."""
        return math.exp(self._theta[-1] / 2) * self._unit

    def _fit(self, iterations: int) -> Array:
        from scipy.linalg import cho_solve
        from scipy.optimize import minimize

        kernel, n = _Kernel(self._words, self.points, self.points), len(self.points)
        numbers = sum(not is_word for is_word in self._words)
        priors = np.array([SCALE] + [WEIGHT] * len(self._words) + [LENGTH] * numbers + [NOISE])

        def loss(theta: Array) -> tuple[float, Array]:
            matrix, slopes = kernel.gradient(theta[:-1])
            noise = math.exp(theta[-1])
            root = np.linalg.cholesky(matrix + (noise + JITTER) * np.eye(n))
            inverse = cho_solve((root, True), np.eye(n))
            weights = inverse @ self._values
            ascent = np.outer(weights, weights) - inverse
            off = (theta - priors[:, 0]) / priors[:, 1]
            slope = [-0.5 * float((ascent * each).sum()) for each in slopes] + [-0.5 * noise * float(np.trace(ascent))]
            found = 0.5 * self._values @ weights + np.log(np.diag(root)).sum() + 0.5 * off @ off
            return float(found), np.array(slope) + off / priors[:, 1]

        start = [float(mean) for mean, _ in priors]
        bounds = [(mean - BOUND, mean + BOUND) for mean in start]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
        return np.asarray(found.x)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return mean and standard deviation of the metric over seeds at each point, in the unit of the values."""
        from scipy.linalg import solve_triangular

        kernel = _Kernel(self._words, points, self.points)(self._theta[:-1])
        whitened = solve_triangular(self._root, kernel.T, lower=True)
        variance = np.maximum(math.exp(self._theta[0]) - (whitened**2).sum(0), 1e-12)
        return self._mean + self._unit * (kernel @ self._weights), self._unit * np.sqrt(variance)

    def draw(self, points: Points, draw: np.random.Generator) -> Array:
        """Return a random function of the posterior at the points, jointly."""
        from scipy.linalg import solve_triangular

        theta = self._theta[:-1]
        cross = _Kernel(self._words, points, self.points)(theta)
        whitened = solve_triangular(self._root, cross.T, lower=True)
        covariance = _Kernel(self._words, points, points)(theta) - whitened.T @ whitened
        root = np.linalg.cholesky(covariance + JITTER * np.eye(len(points)))
        return np.asarray(self._mean + self._unit * (cross @ self._weights + root @ draw.normal(size=len(points))))


def propose(grid: Grid, points: Points, values: Array, draw: np.random.Generator) -> dict[str, Any]:
    """Return the configuration that is best in one random draw from the posterior (Thompson 1933).

    It explores as much as the model is unsure of the best, and several proposals made at once differ. Candidates are
    random points of the space, points near the best ones, and all that were tried: one of them may be repeated.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # on small matrices several threads are slower, next to busy workers a hundred times
        return _propose(grid, points, values, draw)


def _propose(grid: Grid, points: Points, values: Array, draw: np.random.Generator) -> dict[str, Any]:
    model = Surrogate(grid.words, points, values)
    known = join(grid.spread(draw.random((RANDOM, len(grid.names)))), points)
    best = np.argsort(-model.predict(known)[0], kind="stable")[:CENTRES]
    candidates = join(known, grid.beside(known[best], draw))
    mean, deviation = model.predict(candidates)
    hopeful = candidates[np.argsort(-(mean + 2 * deviation), kind="stable")[:HOPEFUL]]
    return grid.decode(hopeful[int(np.argmax(model.draw(hopeful, draw)))])
