"""BatchNorm of few channels against torch's own, the slow reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeper.training.norm import FEWEST, NARROW, NarrowBatchNorm2d, batch_norm_2d, narrow_batch_norm

SHAPE = (5, 8, 6, 6)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of values around 1


def layers(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[NarrowBatchNorm2d, nn.BatchNorm2d]:
    """The same layer twice, ours and torch's, with weights and running statistics of its own for each channel."""
    ours = NarrowBatchNorm2d(SHAPE[1], dtype=dtype, **options)
    torchs = nn.BatchNorm2d(SHAPE[1], dtype=dtype, **options)
    generator = torch.Generator().manual_seed(0)
    for tensor in (ours.weight, ours.bias, ours.running_mean, ours.running_var):
        tensor.data = torch.rand(SHAPE[1], generator=generator, dtype=torch.float64).add(0.5).to(dtype)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    """Each channel with a mean and a spread of its own, and a trend from pixel to pixel, so that folds differ."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    channels = torch.arange(shape[1], dtype=torch.float64)[:, None, None]
    x = x * (1 + channels) + 3 * channels + torch.arange(shape[3], dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def steps(layer: nn.BatchNorm2d, dtype: torch.dtype, count: int = 3) -> list[Tensor]:
    """Outputs and gradients of some batches, then what the layer keeps."""
    seen: list[Tensor] = []
    for seed in range(count):
        x = images(seed, dtype=dtype).requires_grad_()
        y = layer(x)
        y.backward(images(100 + seed, dtype=dtype).flip(0).contiguous(memory_format=torch.channels_last))
        assert x.grad is not None
        seen += [y.detach(), x.grad]
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    return [*seen, *gradients, *layer.state_dict().values()]


def agree(ours: list[Tensor], torchs: list[Tensor], tolerance: float) -> None:
    assert len(ours) == len(torchs)
    for mine, theirs in zip(ours, torchs, strict=True):
        assert mine.dtype == theirs.dtype
        scale = theirs.double().abs().max().clamp(min=1)
        assert (mine.double() - theirs.double()).abs().max() <= tolerance * scale


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_mode_is_that_of_torch(dtype: torch.dtype, momentum: float | None):
    ours, torchs = layers(dtype, momentum=momentum)
    agree(steps(ours, dtype), steps(torchs, dtype), TOLERANCE[dtype])


def test_the_images_may_be_in_bf16_and_the_statistics_are_kept_in_fp32():
    ours, torchs = layers(torch.float32)
    agree(steps(ours, torch.bfloat16), steps(torchs, torch.bfloat16), TOLERANCE[torch.bfloat16])
    exact = layers(torch.float32)[1]
    for seed in range(3):
        exact(images(seed, dtype=torch.bfloat16).float())
    agree(list(ours.state_dict().values()), list(exact.state_dict().values()), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_eval_mode_is_that_of_torch_in_each_bit(dtype: torch.dtype):
    ours, torchs = layers(torch.float64 if dtype is torch.float64 else torch.float32)
    x = images(1, dtype=dtype)
    assert ours.eval()(x).equal(torchs.eval()(x))
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


def test_the_gradient_is_that_of_finite_differences():
    x = images(0, (2, 2, 2, 2)).requires_grad_()
    weight, bias = (torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        return narrow_batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)

    assert torch.autograd.gradcheck(normalised, (x, weight, bias))


@pytest.mark.parametrize(
    ("x", "folds"),
    [(images(0), True), (images(0, (3, 8, 5, 5)), False), (images(0).contiguous(), False)],
    ids=["folds", "odd area", "contiguous"],
)
def test_what_does_not_fold_is_left_to_torch(x: Tensor, folds: bool):
    """Folded values differ from torch's in their last bits."""
    ours, torchs = layers()
    assert ours(x).equal(torchs(x)) is not folds


def test_every_narrow_layer_of_the_networks_folds_whatever_the_batch():
    assert all(side * side % FEWEST == 0 for side in (28, 14))


@pytest.mark.parametrize("batch", [1, 2, 4])  # folds of 4, 8 and 16 pixels
def test_every_fold_is_that_of_torch(batch: int):
    ours, torchs = layers()
    x = images(0, (batch, 8, 14, 14))
    agree([ours(x), ours.running_mean, ours.running_var], [torchs(x), torchs.running_mean, torchs.running_var], 1e-12)


def test_the_statistics_are_nearer_to_double_precision_than_those_of_torch():
    x = images(0, (128, 8, 28, 28))
    ours, torchs = layers(torch.float32, momentum=1.0)
    ours(x.float())
    torchs(x.float())
    exact = x.var((0, 2, 3))
    errors = [((layer.running_var.double() - exact) / exact).abs().max().item() for layer in (ours, torchs)]
    assert errors[0] < errors[1] / 4


def test_only_few_channels_are_folded():
    assert type(batch_norm_2d(NARROW)) is NarrowBatchNorm2d
    assert type(batch_norm_2d(2 * NARROW)) is nn.BatchNorm2d


def test_an_exported_network_holds_torchs_own_layer():
    ours, torchs = layers(torch.float32)
    x = images(0, dtype=torch.float32)
    program = torch.export.export(copy.deepcopy(ours).eval(), (x,))
    assert program.module()(x).equal(torchs.eval()(x))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len(names) == 1
    assert "batch_norm" in names[0]
