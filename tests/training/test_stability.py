from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from sweeper.core.results import Stability
from sweeper.training.stability import SPIKE_MADS, WINDOW, Recorder, count_spikes

CPU = torch.device("cpu")


def noise(count: int, seed: int = 0) -> Tensor:
    return 1 + 0.1 * torch.rand(count, generator=torch.Generator().manual_seed(seed))


def spikes_slowly(losses: list[float]) -> int:
    count = 0
    for step in range(WINDOW, len(losses)):
        before = losses[step - WINDOW : step]
        median = statistics.median(before)
        mad = statistics.median(abs(x - median) for x in before)
        count += losses[step] > median + SPIKE_MADS * mad
    return count


def recorded(epochs: list[tuple[Tensor, Tensor]]) -> Stability:
    recorder = Recorder(len(epochs[0][0]), CPU)
    for losses, norms in epochs:
        recorder.losses[:] = losses
        recorder.norms[:] = norms
        recorder.end_epoch()
    return recorder.stability


def test_spikes_are_counted_as_a_slow_count_counts_them():
    losses = noise(300)
    losses[[60, 61, 150, 299]] = 2.0
    losses[40] = 9.0  # among the first, which are not judged
    assert count_spikes(losses) == spikes_slowly(losses.tolist()) >= 4


def test_a_falling_loss_is_no_spike():
    assert count_spikes(torch.linspace(3, 0.1, 400) + 0.01 * noise(400)) == 0


@pytest.mark.parametrize("steps", [1, WINDOW])
def test_without_enough_steps_before_it_none_is_judged(steps: int):
    assert count_spikes(torch.arange(steps).float() ** 3) == 0


@pytest.mark.parametrize("steps", [5, 20, 51, 75, 150])
def test_epochs_are_one_row_of_steps(steps: int):
    losses = noise(steps * (300 // steps))
    losses[[100, 200, -1]] = 3.0
    parts = losses.split(steps)
    whole = count_spikes(losses)
    assert whole >= 3
    assert recorded([(part, torch.ones(-(-steps // 8))) for part in parts]).spikes == whole


def test_steps_that_are_not_finite_are_counted():
    losses, norms = noise(16), torch.ones(2)
    losses[3], losses[5], norms[1] = math.nan, math.inf, math.inf
    assert recorded([(losses, norms)]).nonfinite_steps == 3
    assert recorded([(noise(16), torch.ones(2))]).nonfinite_steps == 0


def test_the_variation_of_the_gradient_norm_is_that_within_epochs():
    one, ten = torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 20, 30])
    assert recorded([(noise(20), one), (noise(20), ten)]).grad_norm_cv == pytest.approx(0.5)


def test_one_sample_an_epoch_has_no_variation():
    assert math.isnan(recorded([(noise(8), torch.ones(1))]).grad_norm_cv)
