"""The Gaussian process: encoding of a space, gradient, posterior, and proposals that belong to the space."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeper.core.config import Placement, RunConfig
from sweeper.study.space import Choice, Range, Space, default_space
from sweeper.study.surrogate import Grid, Points, Surrogate, propose

MIXED = Space(
    {
        "placement": Choice(("bn", "bn-dropout", "bn-head-dropout")),
        "conv_dropout": Range(0.0, 0.4),
        "head_dropout": Choice((0.1, 0.5, 0.3)),
        "lr": Range(1e-4, 1e-2, log=True),
        "schedule": Choice(("constant", "cosine")),
    }
)
SPACES = {
    "default": default_space(),
    "mixed": MIXED,
    "no placement": Space({"conv_dropout": Range(0.1, 0.3), "batch_size": Choice((64, 256))}),
    "single values": Space(
        {"placement": Choice(("ic",)), "head_dropout": Range(0.2, 0.2), "batch_size": Choice((64,))}
    ),
}


def sampled(space: Space, n: int, seed: int = 0) -> list[dict[str, object]]:
    grid = Grid(space, Placement.BN_DROPOUT)
    points = grid.spread(np.random.default_rng(seed).random((n, len(grid.names))))
    return [grid.decode(points[i]) for i in range(n)]


@pytest.mark.parametrize("name", SPACES)
def test_points_become_parameters_and_points_again(name: str) -> None:
    grid, space = Grid(SPACES[name], Placement.BN_DROPOUT), SPACES[name]
    points = grid.spread(np.random.default_rng(0).random((200, len(grid.names))))
    params = [grid.decode(points[i]) for i in range(200)]
    again = grid.encode(params)
    assert np.allclose(again.x, points.x, atol=1e-12)
    assert (again.there == points.there).all()
    for each in params:
        placement = Placement(each.get("placement", Placement.BN_DROPOUT))
        assert each.keys() == {n for n in space.dimensions if n not in RATES or placement.uses(n)}
        RunConfig.create(**(RunConfig().model_dump() | each))
    for dimension, each in ((n, d) for n, d in space.dimensions.items() if isinstance(d, Choice)):
        assert {p[dimension] for p in params if dimension in p} == set(each.values)


RATES = ("conv_dropout", "head_dropout")


def test_numbers_lie_in_their_order_and_logarithms_evenly() -> None:
    grid = Grid(MIXED, Placement.NONE)
    points = grid.encode([{"placement": "bn-head-dropout", "head_dropout": r, "lr": 1e-3} for r in (0.1, 0.3, 0.5)])
    assert points.x[:, grid.names.index("head_dropout")].tolist() == [0.0, 0.5, 1.0]
    assert points.x[0, grid.names.index("lr")] == pytest.approx(0.5)
    assert points.there[0].tolist() == [name not in ("conv_dropout", "schedule") for name in grid.names]


def peaked(params: dict[str, object]) -> float:
    """A narrow joint optimum: bn-dropout at a convolution rate of 0.1."""
    rate = float(params.get("conv_dropout", 0.4))  # type: ignore[arg-type]
    return 90 + (2.0 if params["placement"] == "bn-dropout" else 1.0) - 60 * (rate - 0.1) ** 2


def test_the_model_predicts_what_it_has_not_seen() -> None:
    grid, params = Grid(default_space(), Placement.NONE), sampled(default_space(), 160)
    values = np.array([peaked(each) for each in params])
    model = Surrogate(grid.words, grid.encode(params[:120]), values[:120])
    mean, deviation = model.predict(grid.encode(params[120:]))
    assert np.abs(np.clip(values[120:], 85, None) - mean).mean() < 0.3 * values.std()
    assert (deviation > 0).all()


def test_the_gradient_is_that_of_the_density(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.optimize

    losses = []
    minimize = scipy.optimize.minimize
    monkeypatch.setattr("scipy.optimize.minimize", lambda loss, *a, **k: losses.append(loss) or minimize(loss, *a, **k))
    grid, params = Grid(MIXED, Placement.NONE), sampled(MIXED, 25)
    Surrogate(grid.words, grid.encode(params), np.random.default_rng(1).normal(size=25))
    start = np.random.default_rng(2).normal(0, 0.3, 1 + 5 + 3 + 1)  # s², five weights, three lengths, the noise
    assert scipy.optimize.check_grad(lambda t: losses[0](t)[0], lambda t: losses[0](t)[1], start) < 1e-4


def test_a_draw_has_the_mean_and_the_spread_of_the_posterior() -> None:
    grid, params = Grid(default_space(), Placement.NONE), sampled(default_space(), 30)
    model = Surrogate(grid.words, grid.encode(params), np.array([peaked(each) for each in params]))
    points = grid.encode(sampled(default_space(), 5, seed=1))
    draws = np.array([model.draw(points, np.random.default_rng(i)) for i in range(500)])
    mean, deviation = model.predict(points)
    assert np.allclose(draws.mean(0), mean, atol=4 * deviation.max() / math.sqrt(500))
    assert np.allclose(draws.std(0), deviation, rtol=0.15)


def test_proposals_gather_where_the_accuracy_is_high() -> None:
    grid, params = Grid(default_space(), Placement.NONE), sampled(default_space(), 60)
    values = np.array([peaked(each) for each in params])
    found = [propose(grid, grid.encode(params), values, np.random.default_rng(i)) for i in range(10)]
    assert sum(each["placement"] == "bn-dropout" for each in found) >= 8
    near = [each for each in found if abs(each.get("conv_dropout", 1) - 0.1) < 0.06]
    assert len(near) >= 7
    assert found[0] == propose(grid, grid.encode(params), values, np.random.default_rng(0)) != found[1]


@pytest.mark.parametrize("values", [[0.5] * 12, [0.1] * 11 + [0.9], [0.9] * 11 + [0.1]])
def test_ties_and_outliers_are_no_error(values: list[float]) -> None:
    grid, params = Grid(default_space(), Placement.NONE), sampled(default_space(), 12)
    assert "placement" in propose(grid, grid.encode(params), np.array(values), np.random.default_rng(0))


def test_trials_that_are_worse_than_the_ties_of_the_best_count() -> None:
    grid, params = Grid(default_space(), Placement.NONE), sampled(default_space(), 40)
    values = np.array([0.5 if each["placement"] in ("dropout", "ic") else 0.9 for each in params])
    assert np.median(values) == values.max()
    found = [propose(grid, grid.encode(params), values, np.random.default_rng(i)) for i in range(10)]
    assert all(each["placement"] not in ("dropout", "ic") for each in found)


def test_points_can_be_taken_by_rows() -> None:
    points = Points(np.arange(6.0).reshape(3, 2), np.ones((3, 2), bool))
    assert (len(points), points[1:].x.tolist()) == (3, [[2.0, 3.0], [4.0, 5.0]])
