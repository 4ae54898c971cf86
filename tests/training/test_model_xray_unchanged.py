"""The X-ray of any network leaves the network, its batches and torch's random state as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import sweeper
from tests.support.examined import Block, images, settled

pytest_plugins = ["tests.support.examined"]
pytestmark = pytest.mark.usefixtures("seeded")


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
