"""The X-ray of any network: batches of all kinds, and what recalibration gains on them."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import sweeper
from sweeper.core.errors import UsageError
from sweeper.core.xray import XRay
from tests.support.examined import Block, images, settled

pytest_plugins = ["tests.support.examined"]
pytestmark = pytest.mark.usefixtures("seeded")


def test_a_generator_is_read_once_and_not_to_its_end():
    taken = itertools.count()
    endless = (images() for _ in taken)
    model = settled(Block(nn.Dropout2d(0.3)))
    assert sweeper.xray(model, endless, max_batches=3).images == 96
    assert next(taken) == 3


def test_a_data_loader_gives_the_same_numbers_each_time_and_another_seed_gives_others():
    model = settled(Block(nn.Dropout2d(0.3)))
    loader = DataLoader(TensorDataset(images(96), torch.arange(96) % 3), 32, shuffle=True)
    one = sweeper.xray(model, loader)
    torch.manual_seed(5)
    assert sweeper.xray(model, loader).json() == one.json()
    assert sweeper.xray(model, loader, seed=1).csv() != one.csv()


def test_a_last_batch_that_is_smaller_is_left_out():
    loader = DataLoader(TensorDataset(images(100)), 32)  # batches are lists of one tensor
    assert sweeper.xray(Block(nn.Dropout2d(0.3)), loader).images == 96


def test_uint8_images_reach_a_network_that_takes_them():
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.uint8
            return self.norm(x.float())

    (layer,) = sweeper.xray(Takes(), [torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)] * 2).layers
    assert layer.before.mean == pytest.approx(127, abs=10)


@pytest.mark.parametrize("kind", ["tuple", "mapping", "tokens"])
def test_inputs_that_are_no_images(kind: str):
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.norm = nn.Embedding(50, 4), nn.BatchNorm1d(4)

        def forward(self, words: Tensor, weight: Tensor | float = 1.0) -> Tensor:
            return self.norm(self.words(words).mean(1) * weight)

    words, weight, labels = torch.randint(0, 50, (8, 6)), torch.rand(8, 1), torch.arange(8) % 4
    batch = {
        "tuple": ((words, weight), labels),
        "mapping": ({"words": words, "weight": weight}, labels),
        "tokens": (words, labels),
    }[kind]
    found = sweeper.xray(Takes(), [batch] * 2)
    assert found.images == 16
    assert math.isfinite(found.recalibration_gain_loss)


@pytest.mark.parametrize(
    ("model", "batches", "options", "why"),
    [
        ("resnet18", [images()], {}, "model is a str"),
        (nn.BatchNorm2d(3), [], {}, "batches is empty"),
        (nn.BatchNorm2d(3), [(images(), 1, 2)], {}, "a batch is a tuple of 3 parts"),
        (nn.LazyBatchNorm2d(), [images()], {}, "lazy layers without weights"),
        (nn.BatchNorm2d(3), [images()], {"max_batches": 0}, "max_batches=0"),
    ],
    ids=["no module", "no batches", "three parts", "lazy", "no number"],
)
def test_what_cannot_be_examined_is_refused(model: Any, batches: list[Any], options: dict[str, int], why: str):
    with pytest.raises(UsageError, match=why):
        sweeper.xray(model, batches, **options)


def test_more_noise_is_a_higher_floor():
    model = settled(Block(nn.Dropout2d(0.3)))
    few, many = (sweeper.xray(model, [images(n) for _ in range(16)]).layers[0].floor for n in (4, 64))
    assert many < few


def test_one_batch_has_no_floor():
    found: XRay = sweeper.xray(Block(nn.Dropout2d(0.3)), [images()])
    assert all(math.isnan(layer.floor) for layer in found.layers)
    assert found.advice.startswith("A shift cannot be told from noise: give two batches or more")


# --- recalibration -----------------------------------------------------------------------------------------


def classifier() -> nn.Sequential:
    return nn.Sequential(Block(nn.Dropout2d(0.0)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


def scored(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        logits = model.eval()(inputs)
    return (logits.argmax(1) == labels).float().mean().item(), F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("apart", [False, True], ids=["the same images", "validation images"])
def test_the_gain_is_that_of_update_bn_where_there_is_no_dropout(apart: bool):
    model = classifier()
    batches = [(images(), torch.randint(0, 5, (32,))) for _ in range(4)]
    val = [(images(20), torch.randint(0, 5, (20,))) for _ in range(3)] if apart else batches
    inputs, labels = (torch.cat(parts) for parts in zip(*val, strict=True))
    found = sweeper.xray(model, batches, validation=val if apart else None)
    again = copy.deepcopy(model)
    update_bn([batch for batch, _ in batches], again)
    before, after = scored(model, inputs, labels), scored(again, inputs, labels)
    assert found.recalibration_gain_accuracy == pytest.approx(after[0] - before[0], abs=1e-6)
    assert found.recalibration_gain_loss == pytest.approx(before[1] - after[1], abs=1e-5)
    assert found.recalibration_gain_loss != 0
    assert "recalibration: accuracy" in str(found)


def test_dropout_is_off_while_batch_norm_is_recalibrated():
    """Values that Dropout would have zeroed are all there: what follows BN has a variance of 1 in evaluation."""
    model = nn.Sequential(nn.Dropout2d(0.5), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batches = [(images(), torch.randint(0, 3, (32,))) for _ in range(4)]
    again = copy.deepcopy(model)
    again[0].p = 0.0
    update_bn([batch for batch, _ in batches], again)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    gain = scored(model, inputs, labels)[1] - scored(again, inputs, labels)[1]
    assert sweeper.xray(model, batches).recalibration_gain_loss == pytest.approx(gain, abs=1e-5)


def test_pixels_may_have_labels():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    found = sweeper.xray(model, [(images(), torch.randint(0, 4, (32, 8, 8))) for _ in range(2)])
    assert math.isfinite(found.recalibration_gain_loss)


@pytest.mark.parametrize(
    "labels",
    [torch.rand(32), torch.rand(32, 5), torch.full((32,), 5), torch.full((32,), -1), torch.ones(32, dtype=torch.bool)],
    ids=["numbers", "soft labels", "too large", "negative", "bool"],
)
def test_what_is_no_class_number_measures_no_gain(labels: Tensor):
    found = sweeper.xray(classifier(), [(images(), labels) for _ in range(2)])
    assert math.isnan(found.recalibration_gain_accuracy)
    assert math.isnan(found.recalibration_gain_loss)
    assert len(found.layers) == 2
    assert "recalibration: not measured" in str(found)
