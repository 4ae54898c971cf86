"""Steps for a GPU: the kernels against torch's own operations, and whole trainings against `loop.train`.

Where there is no GPU, Triton's interpreter runs the kernels on the CPU, and steps are taken one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.core.config import PLAIN, Placement, RunConfig
from sweeper.core.errors import ConfigError, Diverged
from sweeper.core.results import EpochResult, TrainResult
from sweeper.data.fashion import MEAN, SAMPLE, STD
from sweeper.training.folds import finish
from sweeper.training.gpu.captured import Captured, cooperative, train_captured
from sweeper.training.gpu.layers import parse, supports
from sweeper.training.gpu.network import Network
from sweeper.training.gpu.operations import Activation, Masks, Moments, Norm, Plain, Step
from sweeper.training.images import Data, to_input
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from sweeper.training.optimizer import AdamW
from sweeper.training.seeds import seeded
from sweeper.training.start import has_captured_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BASE = RunConfig(model="small", dataset="sample", epochs=2, batch_size=64)
NO_DROPOUT: dict[str, Any] = {"conv_dropout": 0.0, "head_dropout": 0.0}


@pytest.fixture(scope="module")
def kernels() -> Plain:
    pytest.importorskip("triton")
    from sweeper.training.gpu.launches import Kernels

    return Kernels()


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision, in which rounding cannot hide an error, nor be taken for one."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def number(of: int) -> Tensor:
    return torch.tensor(of, device=DEVICE)


# --- the kernels ---------------------------------------------------------------------------------------


NAMES = ("drop", "norm", "pool", "relu", "drop")
PARTS = [parts for parts in itertools.product([False, True], repeat=5) if any(parts)]
CASES = [(shape, *parts) for shape in ((3, 33, 7, 6), (6, 70)) for parts in PARTS if len(shape) == 4 or not parts[2]]


@pytest.mark.parametrize(
    ("shape", "before", "norm", "pool", "relu", "after"),
    CASES,
    ids=["-".join([str(shape), *itertools.compress(NAMES, parts)]) for shape, *parts in CASES],
)
def test_an_activation_is_what_torch_computes(
    kernels: Plain, shape: tuple[int, ...], before: bool, norm: bool, pool: bool, relu: bool, after: bool
):
    check_activation(kernels, shape, before, norm, pool, relu, after)


def test_rows_that_fill_many_tiles_are_put_together_again(kernels: Plain, monkeypatch: pytest.MonkeyPatch):
    from sweeper.training.gpu import launches

    monkeypatch.setattr(launches, "PARTS", 2)  # of 8 tiles: a program then goes through several
    check_activation(kernels, (41, 8, 10, 10), True, True, True, True, True)


def check_activation(
    kernels: Plain, shape: tuple[int, ...], before: bool, norm: bool, pool: bool, relu: bool, after: bool
) -> None:
    """Values, gradients and running statistics against those of torch."""
    generator = torch.Generator().manual_seed(0)
    batch, channels = shape[:2]

    def masks(rate: float) -> Masks:
        kept = torch.rand(3 * batch, channels, generator=generator) > rate
        return Masks(kept.to(DEVICE, torch.uint8), rate)

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    x = (2 * torch.randn(shape, generator=generator) + 1).to(DEVICE, memory_format=layout)
    weight, bias = (torch.rand(channels, generator=generator).to(DEVICE) + 0.5 for _ in range(2))
    drops = masks(0.3) if before else None, masks(0.5) if after else None
    found: list[list[Tensor]] = []
    gradient: Tensor | None = None
    for parts in (kernels, Plain()):
        running = Norm(torch.zeros(channels, device=DEVICE), torch.ones(channels, device=DEVICE), 0.1, 1e-5)
        what = Activation(drops[0], running if norm else None, pool, relu, drops[1])
        given = [value.clone().requires_grad_() for value in ((x, weight, bias) if norm else (x,))]
        out = parts.activate(given[0], *(given[1:] if norm else (None, None)), what, Step(number(1), batch))
        if gradient is None:
            gradient = torch.randn(out.shape, generator=generator).to(DEVICE)
        by = torch.autograd.grad(out, given, gradient)
        found.append([out.detach(), *by, running.running_mean, running.running_var])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert found[0][0].stride() == found[1][0].stride()


def test_of_equal_pixels_the_first_gets_the_gradient_and_what_is_not_a_number_stays(kernels: Plain):
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).repeat(2, 2, 1, 1).to(DEVICE, memory_format=torch.channels_last)
    x[1] = float("nan")
    x.requires_grad_()
    for parts in (kernels, Plain()):
        out = parts.activate(x, None, None, Activation(pool=True, relu=True), Step(number(0), 2))
        (by_x,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert by_x[0, 0].flatten().tolist() == [1, 0, 0, 0]
        assert out[1].isnan().all()


def test_patches_are_what_the_first_convolution_multiplies(kernels: Plain):
    pixels = torch.randint(0, 256, (9, 28, 28), dtype=torch.uint8, device=DEVICE)
    images = to_input(pixels[6:9, :, :, None], SAMPLE.spec)
    kernel = torch.randn(4, 1, 3, 3, device=DEVICE)
    for parts in (kernels, Plain()):
        rows = parts.patches(pixels, 3, Step(number(2), 3), 1 / (255 * STD), MEAN / STD, torch.float32)
        assert not rows[:, 9:].any()
        found = (rows[:, :9] @ kernel.flatten(1).t()).view(3, 28, 28, 4).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, F.conv2d(images, kernel, padding=1), rtol=1e-4, atol=1e-4)


def test_the_cross_entropy_and_its_gradient_are_torch_s(kernels: Plain):
    logits = torch.randn(70, 10, device=DEVICE, requires_grad=True)
    labels = torch.randint(10, (140,), device=DEVICE)
    losses = F.cross_entropy(logits, labels[70:], reduction="none")
    (expected,) = torch.autograd.grad(losses.mean(), logits)
    for parts in (kernels, Plain()):
        found = torch.zeros(140, device=DEVICE)
        gradient = parts.cross_entropy(logits.detach(), labels, found, Step(number(1), 70))
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(found[70:], losses.detach())
        assert not found[:70].any()


def test_the_optimizer_is_torch_s_adamw(kernels: Plain):
    values, gradients = torch.randn(2500), torch.randn(3, 2500)
    layer = nn.ParameterList([values[:1000].clone().view(10, 100), values[1000:].clone()])  # the first decays
    reference = AdamW(layer, 0.1)  # type: ignore[arg-type]
    for step, rate in enumerate((1e-2, 2e-2, 3e-2)):
        layer[0].grad, layer[1].grad = gradients[step, :1000].view(10, 100).clone(), gradients[step, 1000:].clone()
        reference.step(rate)
    steps = torch.arange(1, 4, dtype=torch.float64)
    corrections = torch.stack([1 - 0.9**steps, (1 - 0.999**steps).sqrt()], 1).float().to(DEVICE)
    for parts in (kernels, Plain()):
        row = values.to(DEVICE)
        zeros = torch.zeros_like(row)
        moments = Moments(row.clone(), zeros.clone(), zeros.clone(), row.to(torch.bfloat16), 1000, 0.1)
        squares = torch.zeros(3, parts.blocks([1500, 1000]), device=DEVICE)
        for step in range(3):
            parts_of = gradients[step].to(DEVICE).split([1500, 1000])
            rates = torch.tensor([1e-2, 2e-2, 3e-2], device=DEVICE)
            parts.adamw(moments, parts_of, rates, corrections, squares, Step(number(step), 1))
        expected = torch.cat([p.detach().flatten() for p in layer]).to(DEVICE)
        torch.testing.assert_close(moments.values, expected, rtol=1e-5, atol=1e-6)
        assert moments.copies is not None
        rounding = 2**-7  # the interpreter truncates
        torch.testing.assert_close(moments.copies.float(), moments.values, rtol=rounding, atol=0)
        torch.testing.assert_close(squares.sum(1), gradients.square().sum(1).to(DEVICE))


# --- a step --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("placement", PLAIN)
def test_a_step_has_the_gradient_of_the_model(placement: Placement, model: str):
    config = RunConfig(model=model, placement=placement, dataset="sample", conv_dropout=0.2, head_dropout=0.4)
    with seeded(config, 0):
        alone = build_model(config, SAMPLE.spec)
    with seeded(config, 0):
        stepped = build_model(config, SAMPLE.spec)
    pixels, labels = torch.randint(0, 256, (12, 28, 28), dtype=torch.uint8), torch.randint(10, (12,))
    step = Step(torch.tensor(1), 4)  # the images 4 to 7
    network = Network(stepped, SAMPLE.spec, 12, step, torch.float64, 0.0, Plain())
    dropouts = [layer for layer in alone if isinstance(layer, nn.Dropout | nn.Dropout2d) and layer.p > 0]
    assert [masks.rate for masks in network.masks] == [layer.p for layer in dropouts]
    for layer, masks in zip(dropouts, network.masks, strict=True):
        masks.kept.bernoulli_(1 - layer.p)
        mask = masks.kept[4:8] * masks.scale
        layer.forward = lambda x, mask=mask: x * (mask if x.dim() == 2 else mask[:, :, None, None])  # type: ignore

    losses = torch.zeros(12)
    gradient = torch.cat(network.backward(pixels, labels, losses, 4))
    x = ((pixels[4:8].double() / 255 - MEAN) / STD).unsqueeze(1)
    loss = F.cross_entropy(alone(x), labels[4:8])
    loss.backward()

    assert losses[4:8].mean().item() == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in alone.named_parameters():
        assert parameter.grad is not None
        found = network.places[name].of(gradient)
        found = found[:, :9].unflatten(1, (1, 3, 3)) if found.shape != parameter.shape else found
        torch.testing.assert_close(found, parameter.grad, rtol=1e-5, atol=1e-8, msg=name)
    for name, value in alone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(stepped.state_dict()[name], value, msg=name)


# --- whole trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("placement", "batch_size"),
    [*((p, 64) for p in PLAIN), (Placement.BN, 299), (Placement.BN, 300), (Placement.IC, 33)],
)
def test_a_training_without_dropout_is_the_same_up_to_rounding(placement: Placement, batch_size: int, tiny: Data):
    config = BASE.derive(placement=placement, batch_size=batch_size, lr=1e-4, weight_decay=0.1, schedule="onecycle",
                         augmentation="crop-flip-erase", seed=3, **NO_DROPOUT)  # fmt: skip
    alone, ours = finish(train(config, tiny)), finish(train_captured(config, tiny))
    for found, expected in zip(ours.history, alone.history, strict=True):
        assert found.val_loss == pytest.approx(expected.val_loss, abs=1e-4)
        assert found.train_loss == pytest.approx(expected.train_loss, abs=1e-4)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3)
        assert found.lr == expected.lr
    assert ours.weights.keys() == alone.weights.keys()
    for name, value in alone.weights.items():
        np.testing.assert_allclose(ours.weights[name], value, rtol=0, atol=2e-4)
    assert ours.stability is not None
    assert alone.stability is not None
    assert ours.stability.grad_norm_cv == pytest.approx(alone.stability.grad_norm_cv, rel=1e-2, nan_ok=True)
    assert np.array_equal(ours.evaluation.confusion.sum(1), alone.evaluation.confusion.sum(1))


def test_kernels_and_torch_train_the_same_network(kernels: Plain, tiny: Data):
    few = Data(tiny.train.first(20), tiny.val.first(20))
    config = BASE.derive(placement="bn-dropout", batch_size=16, device=DEVICE.type)
    trainings = [Captured(config, few, parts) for parts in (kernels, Plain())]
    for epoch in (1, 2):
        for training in trainings:
            training.draw(epoch)
            for _ in itertools.chain(training.take_steps(), training.evaluate()):
                pass  # until a GPU has come to the end
        found, expected = (training.read(epoch, 0) for training in trainings)
        assert found.val_loss == pytest.approx(expected.val_loss, abs=1e-3)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-2)


def test_a_training_is_the_same_each_time_and_whatever_advances_beside_it(tiny: Data):
    config = BASE.derive(placement="bn-dropout", augmentation="crop-flip")
    one = finish(train_captured(config, tiny))
    beside, other = cooperative(config, tiny, lambda: 1), cooperative(config.derive(seed=1, model="medium"), tiny)
    epochs = [what for pair in zip(beside, other, strict=True) for what in pair[:1] if isinstance(what, EpochResult)]
    assert [e.val_loss for e in epochs] == [e.val_loss for e in one.history]
    assert [e.beside for e in epochs] == [1, 1]
    assert one.history[0].beside == 0


def test_masks_are_those_of_a_seed_and_an_epoch_and_keep_their_share(tiny: Data):
    config = BASE.derive(placement="bn-dropout", conv_dropout=0.2, head_dropout=0.4)

    def masks(seed: int, epoch: int) -> list[Tensor]:
        captured = Captured(config.derive(seed=seed), tiny)
        captured.draw(epoch)
        return [masks.kept.clone() for masks in captured.network.masks]

    one = masks(0, 1)
    assert [tuple(kept.shape) for kept in one] == [(300, 8), (300, 16), (300, 32)]
    for kept, rate in zip(one, (0.2, 0.2, 0.4), strict=True):
        assert 1 - kept.float().mean().item() == pytest.approx(rate, abs=0.04)
    assert all(map(torch.equal, one, masks(0, 1)))
    for others in (masks(0, 2), masks(1, 1)):
        assert not any(map(torch.equal, one, others))


def test_a_training_that_diverges_says_so(tiny: Data):
    with pytest.raises(Diverged, match="lower lr"):
        finish(train_captured(BASE.derive(lr=1e9), tiny))


def test_bf16_is_rounded_where_autocast_rounds(tiny: Data):
    config = BASE.derive(placement="bn", precision="bf16", lr=1e-4, **NO_DROPOUT)
    alone, ours = finish(train(config, tiny)), finish(train_captured(config, tiny))
    assert isinstance(ours, TrainResult)
    assert ours.history[-1].val_loss == pytest.approx(alone.history[-1].val_loss, abs=5e-3)
    assert {value.dtype.name for value in ours.weights.values()} == {"float32", "int64"}


# --- what the step does not have -----------------------------------------------------------------------


def network_of(*layers: nn.Module) -> nn.Sequential:
    """A network of images, with `layers` after its first convolution."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(4 * 28 * 28, 10))


class Doubled(nn.ReLU):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


RELU = nn.ReLU()
CONV = nn.Conv2d(4, 4, 3, padding=1)
UNSUPPORTED = {
    "activation": network_of(nn.Tanh()),
    "subclass": network_of(Doubled()),
    "nested": network_of(nn.Sequential(nn.ReLU())),
    "convolution": network_of(nn.Conv2d(4, 4, 5, padding=2)),
    "groups": network_of(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "pool": network_of(nn.MaxPool2d(3, 1, 1)),
    "dropout of pixels": network_of(nn.Dropout(0.5)),
    "everything dropped": network_of(nn.Dropout2d(1.0)),
    "no running statistics": network_of(nn.BatchNorm2d(4, track_running_stats=False)),
    "cumulative statistics": network_of(nn.BatchNorm2d(4, momentum=None)),
    "shared weights": network_of(CONV, nn.ReLU(), CONV),
    "first layer": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "colours": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 28 * 28, 10)),
    "no layers": nn.Sequential(),
    "no head": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten()),
    "another module": nn.ModuleList([nn.Linear(784, 10)]),
}


@pytest.mark.parametrize("model", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_network_that_the_step_cannot_compute_is_refused_in_one_line(model: Any):
    assert not supports(model)
    with pytest.raises(ConfigError, match="the captured step on a GPU does not support") as refused:
        Network(model, SAMPLE.spec, 8, Step(torch.tensor(0), 4), torch.float32, 0.0, Plain())
    assert len(str(refused.value).splitlines()) == 1


def test_dropout_of_nothing_and_a_module_in_two_places_are_supported():
    model = network_of(RELU, nn.Dropout(0.0), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), RELU)
    assert supports(model)
    activations = [layer.what for layer in parse(model, 8) if isinstance(layer.what, Activation)]
    assert [activation.relu for activation in activations] == [True, False, True]


@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("placement", PLAIN)
def test_the_step_supports_the_networks_of_this_package(placement: Placement, model: str):
    assert has_captured_step(RunConfig(model=model, placement=placement, dataset="sample"), SAMPLE.spec)
