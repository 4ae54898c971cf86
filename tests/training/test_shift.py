from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.training.xray.dropout import Entered, variance_behind
from sweeper.training.xray.shift import (
    by_channel,
    dropped_variance,
    forgetting,
    joined,
    mean_of,
    moments,
    noise_floor,
    shift,
    variation,
)

EPS = 1e-5


def floats(*values: float) -> Tensor:
    return torch.tensor(values)


def test_the_ratio_is_the_larger_over_the_smaller_and_the_signed_one_cancels():
    found = shift(floats(2.0, 0.5, 1.0), floats(1.0, 1.0, 1.0), EPS)
    assert found.ratio == pytest.approx((2 + 2 + 1) / 3)
    assert found.signed == pytest.approx(0)
    assert found.spread == pytest.approx((1.2, 2.0))
    assert found.left_out == 0


@pytest.mark.parametrize(
    ("r", "m"), [(0, 0), (0, 1), (1, 0), (EPS, 1), (1, EPS), (math.nan, 1), (1, math.nan), (math.inf, 1)]
)
def test_a_channel_without_a_variance_to_compare_is_left_out(r: float, m: float):
    found = shift(floats(3.0, r), floats(1.0, m), EPS)
    assert (found.ratio, found.left_out) == (pytest.approx(3), 1)


def test_with_no_channel_left_there_is_no_ratio():
    found = shift(floats(0.0, 0.0), floats(1.0, 1.0), EPS)
    assert math.isnan(found.ratio)
    assert math.isnan(found.signed)
    assert found.left_out == 2


@pytest.mark.parametrize("shape", [(40, 3), (40, 3, 7, 7)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_moments_are_those_of_a_double_computation(shape: tuple[int, ...], mean: float):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * floats(0.1, 1, 5).reshape(
        3, *[1] * (len(shape) - 2)
    )
    x = (x + mean).to(memory_format=torch.channels_last) if x.dim() == 4 else x + mean
    dims = [d for d in range(x.dim()) if d != 1]
    variance, exact = torch.var_mean(x.double(), dims)
    for near in (exact.float(), exact.float() + 0.5):
        got_mean, got_variance = moments(by_channel(x), near)
        torch.testing.assert_close(got_mean.double(), exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_variance.double(), variance, rtol=1e-3, atol=1e-6)


def test_by_channel_copies_nothing_that_is_channels_last():
    x = torch.zeros(4, 3, 5, 5).to(memory_format=torch.channels_last)
    assert by_channel(x).data_ptr() == x.data_ptr()
    assert by_channel(x).shape == (100, 3)


# --- the closed form for Dropout right before BN ------------------------------------------------------


def images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Channels whose mean, variance within an image and variance between images all differ from 0."""
    generator = torch.Generator().manual_seed(seed)
    within = torch.randn(count, channels, side, side, generator=generator)
    between = torch.randn(count, channels, 1, 1, generator=generator)
    return 0.5 * within + 0.8 * between + torch.linspace(-1, 2, channels)[:, None, None]


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
def test_in_large_batches_it_is_the_formula_of_the_article(keep: float, mean: float, variance: float):
    c, square = floats(mean), floats(mean**2 + variance)
    expected = (mean**2 + variance) / keep - mean**2
    got = dropped_variance(c, square, square, keep, images=10**9, values=10**9)
    assert got.item() == pytest.approx(expected, rel=1e-5)
    if mean == 0:
        assert variance / got.item() == pytest.approx(keep, rel=1e-5)


@pytest.mark.parametrize("batch", [8, 64])
@pytest.mark.parametrize("dropout", [nn.Dropout2d(0.1), nn.Dropout2d(0.4), nn.Dropout(0.3)], ids=str)
def test_batches_after_dropout_have_the_variance_of_the_closed_form(batch: int, dropout: nn.Module):
    x = images(8_192, 5, 1).flatten(1) if isinstance(dropout, nn.Dropout) else images(4_096, 5, 6)
    expected, measured = expected_and_measured(x, dropout, batch)
    torch.testing.assert_close(measured, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.3), nn.Dropout(0.3, inplace=True)], ids=str)
def test_a_mask_for_each_value_of_an_image_hides_less_of_the_variance(dropout: nn.Module):
    """The formula for a mask a channel is off by more than the tolerance above."""
    x = images(4_096, 5, 2)
    expected, measured = expected_and_measured(x, dropout, 8)
    torch.testing.assert_close(measured, expected, rtol=0.02, atol=0)
    as_channels, _ = expected_and_measured(x, nn.Dropout2d(0.3), 8)
    assert ((measured / as_channels - 1) > 0.02).all()


def test_channels_of_a_sequence_may_share_a_mask():
    x = images(4_096, 5, 3).flatten(2)
    expected, measured = expected_and_measured(x, nn.Dropout1d(0.3), 8)
    torch.testing.assert_close(measured, expected, rtol=0.02, atol=0)


def test_in_small_batches_a_mask_for_a_whole_channel_hides_some_of_the_variance():
    """The formula for large batches is off by more than the tolerance above: the term for small ones is needed."""
    x = images(4_096, 5, 6)
    _, measured = expected_and_measured(x, nn.Dropout2d(0.4), 8)
    c, v = x.mean((0, 2, 3)), x.var((0, 2, 3))
    large = (c**2 + v) / 0.6 - c**2
    assert ((large / measured - 1) > 0.05).all()


def expected_and_measured(x: Tensor, dropout: Any, batch: int) -> tuple[Tensor, Tensor]:
    """The closed form, and the mean over many batches and masks of the unbiased batch variance behind `dropout`."""
    dims = [d for d in range(x.dim()) if d != 1]
    variances = []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        entered = [Entered.of(part, dropout) for part in x.split(batch)]
        for _ in range(12):
            shuffled = x[torch.randperm(len(x))]  # a copy, for Dropout in place
            variances += [dropout(part).var(dims) for part in shuffled.split(batch)]
    return variance_behind(entered, dropout.p), torch.stack(variances).mean(0)


# --- noise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 16])
def test_the_coefficient_of_variation_does_not_depend_on_the_number_of_batches(count: int):
    variances = 3 + 0.3 * torch.randn(count, 40_000, generator=torch.Generator().manual_seed(0))
    assert variation(variances).mean().item() == pytest.approx(0.1, rel=0.02)


def test_one_batch_has_no_variation():
    assert variation(torch.ones(1, 3)).isnan().all()


@pytest.mark.parametrize(("cv", "batches"), [(0.05, 4), (0.3, 16)])
def test_the_noise_floor_is_the_ratio_of_two_averages_of_the_same_noise(cv: float, batches: int):
    """Log-normal batch variances, averaged as BN does and plainly."""
    generator = torch.Generator().manual_seed(0)
    channels = 20_000
    running = torch.ones(channels)
    s = math.sqrt(math.log1p(cv**2))
    for _ in range(100):
        running = 0.9 * running + 0.1 * (s * torch.randn(channels, generator=generator)).exp()
    plain = (s * torch.randn(batches, channels, generator=generator)).exp().mean(0)
    floor = noise_floor(floats(cv), floats(cv), 0.1, batches)
    assert shift(plain, running, EPS).ratio - 1 == pytest.approx(floor.item() - 1, rel=0.05)


# --- layers that are called several times -----------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0, 0.0])
def test_calls_are_weighted_as_in_the_running_variance(momentum: float):
    """If every batch has the same variances, a running variance converges to their weighted mean."""
    calls = [floats(1.0, 4.0), floats(9.0, 2.0), floats(5.0, 5.0)]
    running = calls[-1].clone() if momentum else torch.stack(calls).mean(0)
    for _ in range(300):
        for variance in calls:
            running = (1 - momentum) * running + momentum * variance
    torch.testing.assert_close(joined(calls, momentum), running)


def test_without_momentum_calls_have_the_same_weight():
    torch.testing.assert_close(joined([floats(1.0), floats(9.0)], None), floats(5.0))


def test_the_variance_of_one_call_stays_as_it_is():
    variance = floats(1.0)
    assert joined([variance], 0.1) is variance


def test_a_batch_with_two_calls_is_forgotten_as_two_batches_are():
    assert forgetting(nn.BatchNorm1d(3), 1) == 0.1
    assert forgetting(nn.BatchNorm1d(3), 2) == pytest.approx(0.19)


@pytest.mark.parametrize(("steps", "calls", "expected"), [(20, 1, 20), (20, 2, 10), (0, 1, 1)])
def test_without_momentum_the_noise_is_that_of_a_plain_mean(steps: int, calls: int, expected: int):
    layer = nn.BatchNorm1d(3, momentum=None)
    layer.num_batches_tracked.fill_(steps)
    a = forgetting(layer, calls)
    assert a / (2 - a) == pytest.approx(1 / expected)


def test_the_mean_is_over_finite_values_that_are_asked_for():
    values = floats(1, math.nan, 5, 100)
    assert mean_of(values, torch.tensor([True, True, True, False])) == 3
    assert math.isnan(mean_of(values, torch.tensor([False, True, False, False])))


def test_batch_norm_keeps_the_unbiased_variance():
    """All formulas here assume that the running variance averages unbiased batch variances."""
    x = images(6, 3, 4)
    running = torch.zeros(3)
    F.batch_norm(x, torch.zeros(3), running, training=True, momentum=1.0)
    torch.testing.assert_close(running, x.var((0, 2, 3)))
