"""The X-ray of any network: graphs, layers of all kinds, batches of all kinds, and what it leaves as it was."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import sweeper
from sweeper.core.errors import UsageError
from sweeper.core.xray import Skipped, XRay

STEPS = 120  # of momentum 0.1: what is left of the 1 that m starts from is nothing


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        yield


def images(count: int = 32, channels: int = 3, side: int = 8) -> Tensor:
    """Images whose mean and variance differ from 0 and 1."""
    return 0.7 * torch.randn(count, channels, side, side) + 0.5 * torch.randn(count, channels, 1, 1) + 0.8


def settled(model: nn.Module, draw: Callable[[], Any] = images, steps: int = STEPS) -> nn.Module:
    """Let the running statistics become those of training on batches of `draw`. Nothing is trained."""
    model.train()
    with torch.no_grad():
        for _ in range(steps):
            model(draw())
    return model


class Block(nn.Module):
    """A residual block, with its layers in another order than they are called, and Dropout right before BN."""

    def __init__(self, dropout: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.last = nn.BatchNorm2d(8)
        self.dropout = dropout
        self.first = nn.BatchNorm2d(channels)
        self.widen, self.narrow = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(self.widen(F.relu(self.first(x))))
        return x + self.narrow(F.relu(self.last(inner)))


class Between(nn.Module):
    """Dropout, then a function, then BN."""

    def __init__(self, function: Callable[[Tensor], Tensor], dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.dropout = dropout or nn.Dropout2d(0.3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.function(self.dropout(x)))


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


# --- batches -----------------------------------------------------------------------------------------------


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
        ("resnet18", [images()], {}, "model is of type str"),
        (nn.BatchNorm2d(3), [], {}, "there are no batches"),
        (nn.BatchNorm2d(3), [(images(), 1, 2)], {}, "a batch is a tuple of 3 parts"),
        (nn.LazyBatchNorm2d(), [images()], {}, "lazy layers without weights"),
        (nn.BatchNorm2d(3), [images()], {"max_batches": 0}, "max_batches=0"),
    ],
    ids=["no module", "no batches", "three parts", "lazy", "no number"],
)
def test_what_cannot_be_examined_is_refused(model: Any, batches: list[Any], options: dict[str, int], why: str):
    with pytest.raises(UsageError, match=why):
        sweeper.xray(model, batches, **options)


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


# --- what stays as it was ------------------------------------------------------------------------------------


class Stateful(Block):
    """A block with a buffer that each call in training mode changes in place, and one that it replaces."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout2d(0.3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("center", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.center = x.mean((0, 2, 3))
        return super().forward(x)


def hooks_of(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_nothing_of_the_network_changes():
    model = settled(Stateful())
    model.last.eval()
    model.widen.weight.requires_grad_(False)
    model(images()).sum().backward()
    model.register_forward_hook(lambda *_: None)
    state = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    gradients = {name: (p.requires_grad, p.grad, copy.copy(p.grad)) for name, p in model.named_parameters()}
    modes, momenta, hooks = [m.training for m in model.modules()], model.first.momentum, hooks_of(model)
    batches = [(images(), torch.arange(32) % 3)] * 2
    random = torch.get_rng_state()
    assert sweeper.xray(model, batches, seed=3).layers
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is state[name][0]
        assert torch.equal(tensor, state[name][1]), name
    for name, parameter in model.named_parameters():
        needs, gradient, values = gradients[name]
        assert parameter.requires_grad is needs
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, values)
    assert [m.training for m in model.modules()] == modes
    assert model.first.momentum == momenta
    assert hooks_of(model) == hooks
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("call", [1, 3, 5, 7], ids=["eval pass", "training pass", "before", "recalibration"])
def test_an_error_of_the_network_is_raised_as_it_is_and_leaves_nothing_behind(call: int):
    class Breaks(Stateful):
        left = call

        def forward(self, x: Tensor) -> Tensor:
            self.left -= 1
            x = super().forward(x)
            if not self.left:
                raise ZeroDivisionError("mine")
            return x

    model = Breaks().eval()
    batches = [(images(), torch.arange(32) % 3)] * 2
    state, random = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        sweeper.xray(model, batches)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert hooks_of(model) == [0] * len(hooks_of(model))
    assert model.first.momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_an_error_of_the_batches_is_raised_as_it_is():
    def broken() -> Iterator[Tensor]:
        yield images()
        raise ZeroDivisionError("theirs")

    with pytest.raises(ZeroDivisionError, match=r"^theirs$"):
        sweeper.xray(nn.BatchNorm2d(3), broken())


def test_a_network_that_changes_its_input_in_place_leaves_the_batches_as_they_are():
    held = [images() for _ in range(2)]
    kept = [batch.clone() for batch in held]
    found = sweeper.xray(nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.BatchNorm2d(3)), held)
    assert all(torch.equal(one, two) for one, two in zip(held, kept, strict=True))
    plain = sweeper.xray(nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm2d(3)), held)
    assert found.csv() == plain.csv()


def test_a_network_that_holds_activations_of_its_training_can_be_examined():
    """It cannot be copied."""

    class Keeps(Block):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = super().forward(x)
            return self.kept

    model = Keeps(nn.Dropout2d(0.3))
    model(images())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert len(sweeper.xray(model, [images()] * 2).layers) == 2


def test_wrapped_networks_are_examined_as_what_they_wrap():
    model, batches = settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(2)]
    plain = sweeper.xray(model, batches)
    assert sweeper.xray(nn.DataParallel(model), batches).csv() == plain.csv()


def test_a_compiled_network_is_examined_as_it_is_written():
    model, batches = settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(2)]
    plain = sweeper.xray(model, batches)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled.eval()(images())
    found = sweeper.xray(compiled, batches)
    assert [layer.ratio for layer in found.layers] == [layer.ratio for layer in plain.layers]
    assert [layer.dropout for layer in found.layers] == ["", "_orig_mod.dropout"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_numbers_are_almost_the_same_and_its_random_state_stays():
    model, batches = settled(Block(nn.Dropout2d(0.3))), [images() for _ in range(8)]
    here = sweeper.xray(model, batches)
    random = torch.cuda.get_rng_state()
    there = sweeper.xray(model.cuda(), batches)
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert there.csv() == sweeper.xray(model, batches).csv()
    for one, two in zip(here.layers, there.layers, strict=True):
        assert two.dropout == one.dropout
        assert two.ratio == pytest.approx(one.ratio, rel=0.05)


def test_more_noise_is_a_higher_floor():
    model = settled(Block(nn.Dropout2d(0.3)))
    few, many = (sweeper.xray(model, [images(n) for _ in range(16)]).layers[0].floor for n in (4, 64))
    assert many < few


def test_one_batch_has_no_floor():
    found: XRay = sweeper.xray(Block(nn.Dropout2d(0.3)), [images()])
    assert all(math.isnan(layer.floor) for layer in found.layers)
    assert found.advice.startswith("A shift cannot be told from noise: give two batches or more")
