"""The variance of logits over Dropout masks, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sweeper.training.xray.masks import mask_variance
from sweeper.training.xray.passes import Subject

RATE, SIDE, CHANNELS = 0.3, 4, 6


def head(*layers: nn.Module) -> nn.Sequential:
    """A head with global average pooling, after a BatchNorm layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(CHANNELS), *layers, nn.Linear(CHANNELS, 10))


def subject(model: nn.Sequential) -> Subject:
    """The head, and eight batches of 500 inputs, of which the first is used."""
    torch.manual_seed(1)
    return Subject(model, [torch.rand(500, CHANNELS, SIDE, SIDE) for _ in range(8)], model)


def expected(model: nn.Sequential, x: Tensor) -> float:
    """The sum of w² p / (1 - p) E[m²] over the inputs m of the linear layer that Dropout zeroes, mean over logits."""
    linear = model[-1]
    assert isinstance(linear, nn.Linear)
    return float(RATE / (1 - RATE) * (x.square().mean(0) * linear.weight.detach().square()).sum(1).mean())


def test_after_the_pooling_it_is_that_of_the_means_and_before_it_that_of_the_values() -> None:
    after = head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(RATE))
    before = head(nn.Dropout(RATE), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = subject(after).batches[0] / math.sqrt(1 + 1e-5)  # as BatchNorm's initial statistics leave it
    assert mask_variance(subject(after)) == pytest.approx(expected(after, x.mean((2, 3))), rel=0.1)
    of_values = x.square().mean((2, 3)).sqrt() / SIDE  # each of SIDE² values has a mask of its own
    assert mask_variance(subject(before)) == pytest.approx(expected(before, of_values), rel=0.1)


def test_batch_norm_takes_no_part_and_the_network_stays_as_it_was() -> None:
    made = subject(head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(RATE)))
    made.model.train()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    shifted = Subject(made.model, [batch * 100 for batch in made.batches], made.forward)
    assert mask_variance(shifted) == pytest.approx(1e4 * mask_variance(made), rel=0.1)  # not normalised by the batch
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert all(module.training for module in made.model.modules())


@pytest.mark.parametrize("layers", [[], [nn.Dropout(0.0)]], ids=["none", "rate 0"])
def test_without_dropout_there_is_none(layers: list[nn.Module]) -> None:
    assert math.isnan(mask_variance(subject(head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers))))
