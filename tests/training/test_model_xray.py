"""The X-ray of any network: graphs, and layers of all kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import sweeper
from sweeper.core.xray import Skipped
from tests.support.examined import Between, Block, images, settled

pytest_plugins = ["tests.support.examined"]
pytestmark = pytest.mark.usefixtures("seeded")


class Branches(nn.Module):
    """One tensor enters Dropout and BN, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout2d(0.3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) + self.norm(x)


class Twice(nn.Module):
    """One BN layer, called on a tensor and on three times as much of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout2d(0.3), nn.BatchNorm2d(3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + self.norm(3 * x)


# --- graphs ---------------------------------------------------------------------------------------------


def test_layers_are_named_in_the_order_of_their_calls_and_dropout_before_them_is_found():
    found = sweeper.xray(settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(16)])
    first, last = found.layers
    assert (first.name, first.position, first.dropout, first.earlier) == ("first", "first", "", "")
    assert (last.name, last.position, last.dropout, last.earlier) == ("last", "last", "dropout", "dropout")
    assert first.ratio < first.floor + 0.03
    assert last.ratio == pytest.approx(last.closed_form, abs=0.02 * last.ratio)
    assert last.ratio > 1.2
    assert last.signed < -0.2
    assert math.isnan(first.closed_form)
    assert found.images == 16 * 32
    assert found.skipped == ()


@pytest.mark.parametrize(
    "dropout", [nn.Dropout(0.3), nn.Dropout(0.3, inplace=True), nn.Dropout2d(0.3, inplace=True)], ids=str
)
def test_the_closed_form_knows_the_mask_of_each_kind_of_dropout(dropout: nn.Module):
    draw = lambda: images(4)  # noqa: E731 - few images in a batch, where the kind of the mask matters most
    model = settled(nn.Sequential(dropout, nn.BatchNorm2d(3, momentum=None)), draw, steps=1_000)
    (layer,) = sweeper.xray(model, [draw() for _ in range(1_000)], max_batches=1_000).layers
    assert layer.dropout == "0"
    assert layer.ratio == pytest.approx(layer.closed_form, rel=0.02)


def test_a_resnet_with_dropout_before_one_of_its_batch_norms():
    model = torchvision.models.resnet18(num_classes=10)
    plain = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    model.layer1[0].bn2 = nn.Sequential(nn.Dropout2d(0.3), model.layer1[0].bn2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain mean needs few steps
    draw = lambda: torch.randn(16, 3, 32, 32)  # noqa: E731
    found = sweeper.xray(settled(model, draw, steps=8), [draw() for _ in range(4)])
    names = [layer.name for layer in found.layers]
    assert sorted(names) == sorted(name.replace("layer1.0.bn2", "layer1.0.bn2.1") for name in plain)
    assert names[:4] == ["bn1", "layer1.0.bn1", "layer1.0.bn2.1", "layer1.1.bn1"]
    layer = found.layers[2]
    assert (layer.dropout, layer.channels) == ("layer1.0.bn2.0", 64)
    assert layer.ratio == pytest.approx(layer.closed_form, rel=0.03)
    assert [each.name for each in found.layers if math.isfinite(each.closed_form)] == ["layer1.0.bn2.1"]
    assert [each.earlier for each in found.layers] == [""] * 2 + ["layer1.0.bn2.0"] * 18


@pytest.mark.parametrize(
    ("function", "before"),
    [
        (lambda x: x, True),
        (nn.Identity(), True),
        (lambda x: x + 1, False),
        (lambda x: x.mul_(2), False),  # the same tensor, with other values
        (nn.LeakyReLU(inplace=True), False),
        (lambda x: x.transpose(2, 3), False),
    ],
    ids=["nothing", "identity", "new", "in place", "module in place", "view"],
)
def test_dropout_is_right_before_if_the_very_tensor_arrives(function: Callable[[Tensor], Tensor], before: bool):
    (layer,) = sweeper.xray(Between(function), [images() - 1 for _ in range(2)]).layers
    assert layer.dropout == ("dropout" if before else "")
    assert math.isfinite(layer.closed_form) is before
    assert layer.earlier == "dropout"


@pytest.mark.parametrize("dropout", [nn.Dropout(0.0), nn.AlphaDropout(0.3)], ids=str)
def test_dropout_at_rate_0_or_of_another_kind_is_none(dropout: nn.Module):
    (layer,) = sweeper.xray(Between(lambda x: x, dropout), [images() for _ in range(2)]).layers
    assert (layer.dropout, layer.earlier) == ("", "")
    assert math.isnan(layer.closed_form)


def test_dropout_in_a_branch_beside_is_not_right_before():
    (layer,) = sweeper.xray(Branches(), [images() for _ in range(2)]).layers
    assert (layer.dropout, layer.earlier) == ("", "dropout")


def test_one_dropout_module_that_is_called_in_many_places_is_told_apart_by_its_calls():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout2d(0.3)
            self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(self.two(self.dropout(5 * self.one(x))))

    found = sweeper.xray(settled(Shared()), [images() for _ in range(16)])
    one, two = found.layers
    assert (one.dropout, two.dropout) == ("", "dropout")
    assert two.ratio == pytest.approx(two.closed_form, rel=0.03)


def test_a_layer_behind_one_dropout_and_then_another_has_no_closed_form():
    class Alternates(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Dropout(0.1), nn.Dropout(0.5), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.norm((self.one if self.calls % 2 else self.two)(x))

    (layer,) = sweeper.xray(Alternates(), [images() for _ in range(2)]).layers
    assert math.isnan(layer.closed_form)


# --- layers that are called several times, or have other options -------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_a_layer_called_twice_weighs_its_calls_as_its_running_variance_does(momentum: float | None):
    """The calls have variances of 1 and 9: at momentum 0.5, their plain mean would be 0.3 above m in the logarithm."""
    draw = lambda: torch.randn(256, 3, 8, 8)  # noqa: E731
    (layer,) = sweeper.xray(settled(Twice(momentum=momentum), draw), [draw() for _ in range(8)]).layers
    assert abs(layer.signed) < 0.01
    assert layer.ratio < 1.02
    assert 1 < layer.floor < 1.02


def test_the_training_variance_of_a_layer_called_twice_is_that_of_both_calls():
    """In each batch the calls are of one tensor, so that their variances go up and down together."""
    batches = [torch.randn(4, 3, 2, 2) for _ in range(400)]
    twice, once = (
        sweeper.xray(model, batches, max_batches=400).layers[0]
        for model in (Twice(), Between(nn.Identity(), nn.Dropout(0.0)))
    )
    assert twice.batch_noise == pytest.approx(once.batch_noise, rel=1e-4)
    assert once.batch_noise == pytest.approx(math.sqrt(2 / 15), rel=0.1)


def test_options_of_batch_norm():
    model = nn.Sequential(
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.SyncBatchNorm(3),
        nn.BatchNorm2d(3, eps=0.1),
    )
    model[3].requires_grad_(False)
    found = sweeper.xray(settled(model), [images() for _ in range(16)])
    assert [layer.name for layer in found.layers] == ["0", "1", "2", "3"]
    for layer in found.layers:
        assert 1 <= layer.ratio < 1.06
        assert layer.after.mean == pytest.approx(0, abs=0.1)
        assert layer.after.variance == pytest.approx(1, abs=0.15)


def test_batch_norm_without_running_statistics_or_frozen_or_never_called_is_left_out_with_the_reason():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.untracked, self.frozen = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3).eval()
            self.idle, self.head, self.used = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.used(self.frozen(self.untracked(x)))
            return self.head(x) if self.training else x

    model = Odd()
    found = sweeper.xray(model, [images() for _ in range(2)])
    assert [layer.name for layer in found.layers] == ["used"]
    assert {each.name: each.reason.partition(":")[0] for each in found.skipped} == {
        "untracked": "has no running statistics",
        "frozen": "is frozen",
        "idle": "is not called in evaluation",
        "head": "is not called in evaluation",
    }
    assert "left out: frozen, which is frozen: it is in eval mode while" in str(found)
    assert [each.name for each in sweeper.xray(model.eval(), [images()]).layers] == ["frozen", "used"]


def test_a_network_whose_train_keeps_batch_norm_frozen_has_nothing_to_examine():
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[0].training = False
            return self

    found = sweeper.xray(Frozen(nn.BatchNorm2d(3)).eval(), [images()])
    assert found.layers == ()
    assert found.skipped == (Skipped("0", "is frozen: it is in eval mode while the network is in training mode"),)
    assert found.advice == "No BatchNorm layer could be examined."


@pytest.mark.parametrize("mode", [True, False], ids=["training", "eval"])
def test_the_mode_of_the_network_makes_no_difference(mode: bool):
    model, batches = settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(2)]
    assert sweeper.xray(model.train(mode), batches).csv() == sweeper.xray(model.train(), batches).csv()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_network_of_another_precision_has_almost_the_same_numbers(dtype: torch.dtype):
    model, batches = settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(8)]
    single = sweeper.xray(model, batches)
    other = sweeper.xray(model.to(dtype), [batch.to(dtype) for batch in batches])
    for one, two in zip(single.layers, other.layers, strict=True):
        assert two.dropout == one.dropout
        assert two.ratio == pytest.approx(one.ratio, rel=0.05)
        assert two.floor == pytest.approx(one.floor, rel=0.02)


@pytest.mark.parametrize(
    ("dropout", "norm", "shape"),
    [
        (nn.Dropout(0.3), nn.BatchNorm1d(5), (64, 5)),
        (nn.Dropout1d(0.3), nn.BatchNorm1d(5), (64, 5, 7)),
        (nn.Dropout(0.3), nn.BatchNorm1d(5), (64, 5, 7)),
        (nn.Dropout3d(0.3), nn.BatchNorm3d(5), (64, 5, 3, 3, 3)),
    ],
    ids=str,
)
def test_inputs_of_every_shape(dropout: nn.Module, norm: nn.Module, shape: tuple[int, ...]):
    draw = lambda: torch.randn(shape) + 1  # noqa: E731
    (layer,) = sweeper.xray(settled(nn.Sequential(dropout, norm), draw), [draw() for _ in range(16)]).layers
    assert layer.dropout == "0"
    assert layer.ratio == pytest.approx(layer.closed_form, rel=0.03)
    assert layer.ratio > 1.3


def test_layers_that_are_called_with_names():
    class Named(Between):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=self.dropout(input=x))

    (layer,) = sweeper.xray(Named(nn.Identity()), [images() for _ in range(2)]).layers
    assert layer.dropout == "dropout"


def test_a_network_that_is_one_batch_norm():
    (layer,) = sweeper.xray(nn.BatchNorm2d(3), [images()]).layers
    assert (layer.name, layer.channels) == ("BatchNorm2d", 3)


def test_a_network_without_batch_norm():
    found = sweeper.xray(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 10)), [images()])
    assert (found.layers, found.skipped, found.images) == ((), (), 0)
    assert str(found) == "The network has no BatchNorm layer."
    assert found.metrics() == {}
    assert found.to_frame().empty
    assert found.plot().texts
