from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.core.config import RunConfig, placements_of
from sweeper.data.fashion import SAMPLE
from sweeper.training.networks import build_model, parameter_count
from sweeper.training.norm import NarrowBatchNorm2d

WORDS = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "bn",
    NarrowBatchNorm2d: "bn",
    nn.Dropout2d: "drop",
    nn.MaxPool2d: "pool",
    nn.ReLU: "relu",
    nn.Flatten: "flatten",
    nn.BatchNorm1d: "bn1",
    nn.Dropout: "drop1",
    nn.Linear: "linear",
}

# placement: a convolution and the layers around it, and the head. The article has the ReLU before the pool; here the
# pool is first, which gives the same values (tested below).
GRAMMAR = {
    "none": ("conv pool relu", "linear relu linear"),
    "bn": ("conv bn pool relu", "linear relu linear"),
    "dropout": ("conv pool relu drop", "linear relu drop1 linear"),
    "bn-dropout": ("conv bn pool relu drop", "linear relu drop1 linear"),
    "dropout-bn": ("conv drop bn pool relu", "linear relu drop1 linear"),
    "bn-head-dropout": ("conv bn pool relu", "linear relu drop1 linear"),
    "ic": ("bn drop conv pool relu", "bn1 drop1 linear relu bn1 drop1 linear"),
}
# size: for each convolution, its filters and whether a pool follows it
SIZES = {
    "small": [(8, True), (16, True)],
    "medium": [(32, True), (64, True), (128, True)],
    "large": [(64, False), (64, True), (128, False), (128, True), (256, False), (256, True)],
}


def network(model: str, placement: str = "bn-dropout") -> nn.Sequential:
    return build_model(
        RunConfig.create(model=model, placement=placement, conv_dropout=0.25, head_dropout=0.5), SAMPLE.spec
    )


def layers_of(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in model.modules() if type(layer) is kind]


# --- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "parameters"), [("small", 26_698), ("medium", 241_546), ("large", 1_736_906)])
def test_a_size_has_the_documented_number_of_parameters(model: str, parameters: int):
    assert parameter_count(network(model, "none")) == parameters
    assert parameter_count(network("small", "ic")) < 61_706  # of LeNet-5, which the article's small network is below


@pytest.mark.parametrize(("model", "placement"), list(product(SIZES, GRAMMAR)))
def test_a_network_has_its_filters_and_turns_images_into_ten_logits(model: str, placement: str):
    built = network(model, placement)
    assert [conv.out_channels for conv in layers_of(built, nn.Conv2d)] == [width for width, _ in SIZES[model]]
    assert built(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


# --- the placement grammar ----------------------------------------------------------------------------


def test_the_grammar_of_these_tests_has_every_placement():
    assert {p.value for p in placements_of("medium")} == set(GRAMMAR)


@pytest.mark.parametrize(("model", "placement"), list(product(SIZES, GRAMMAR)))
def test_the_layers_stand_in_the_order_of_the_grammar(model: str, placement: str):
    block, head = GRAMMAR[placement]
    blocks = [block if pool else block.replace("pool ", "") for _, pool in SIZES[model]]
    blocks[0] = blocks[0].removeprefix("bn drop ")  # `ic` spares the image from BatchNorm and Dropout
    expected = " ".join([*blocks, "flatten", head])
    assert " ".join(WORDS[type(layer)] for layer in network(model, placement)) == expected


@pytest.mark.parametrize("placement", GRAMMAR)
def test_each_part_drops_at_its_own_rate(placement: str):
    model = network("medium", placement)
    block, head = (part.split() for part in GRAMMAR[placement])
    assert {layer.p for layer in layers_of(model, nn.Dropout2d)} == ({0.25} if "drop" in block else set())
    assert {layer.p for layer in layers_of(model, nn.Dropout)} == ({0.5} if "drop1" in head else set())


@pytest.mark.parametrize("placement", GRAMMAR)
def test_a_convolution_has_a_bias_unless_batch_norm_follows_at_once(placement: str):
    model = network("large", placement)
    followers = [(one, two) for one, two in pairwise(model) if isinstance(one, nn.Conv2d)]
    assert len(followers) == 6
    assert all((conv.bias is None) == isinstance(layer, nn.BatchNorm2d) for conv, layer in followers)


def effective(config: RunConfig) -> str:
    """The layers of a network without the Dropout layers that drop nothing."""
    return " ".join(str(m) for m in build_model(config, SAMPLE.spec).modules()
                    if not list(m.children()) and getattr(m, "p", 1) > 0)  # fmt: skip


@pytest.mark.parametrize("model", ["small", "resnet20"])
def test_two_configurations_have_one_key_exactly_when_they_build_the_same_network(model: str):
    rates = [(0.0, 0.0), (0.0, 0.3), (0.2, 0.0), (0.2, 0.3)]
    configs = [
        RunConfig.create(model=model, placement=placement, conv_dropout=conv, head_dropout=head)
        for placement, (conv, head) in product(placements_of(model), rates)
    ]
    networks = {config: effective(config) for config in configs}
    wrong = [
        f"{one.placement}{one.conv_dropout, one.head_dropout} and {two.placement}{two.conv_dropout, two.head_dropout}"
        for one, two in combinations(configs, 2)
        if (one.key == two.key) != (networks[one] == networks[two])
    ]
    assert wrong == []


# --- the two documented reorderings --------------------------------------------------------------------


def test_pool_before_relu_equals_relu_before_pool():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 28, 28, requires_grad=True)
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    fast, slow = relu(pool(x)), pool(relu(x))
    assert torch.equal(fast, slow)
    weight = torch.randn_like(fast)
    (fast_grad,) = torch.autograd.grad((fast * weight).sum(), x)
    (slow_grad,) = torch.autograd.grad((slow * weight).sum(), x)
    assert torch.equal(fast_grad, slow_grad)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout2d_after_the_pool_equals_dropout2d_before_it(rate: float):
    torch.manual_seed(0)
    x = torch.randn(16, 8, 28, 28).relu()  # after a ReLU: no value is negative
    pool, dropout = nn.MaxPool2d(2), nn.Dropout2d(rate)
    torch.manual_seed(1)
    after = dropout(pool(x))
    torch.manual_seed(1)  # the same channels are dropped
    before = pool(dropout(x))
    assert torch.equal(after, before)
    if rate:
        assert 0 < (after.amax((2, 3)) == 0).float().mean() < 1  # some channels are dropped, others not


@pytest.mark.parametrize("placement", GRAMMAR)
def test_a_network_computes_what_its_grammar_says(placement: str):
    """The network in eval mode against the plain order: ReLU first, then the pool, and no Dropout."""
    torch.manual_seed(0)
    model = network("small", placement).eval()
    kinds = (nn.BatchNorm2d, NarrowBatchNorm2d, nn.BatchNorm1d)
    for norm in [layer for kind in kinds for layer in layers_of(model, kind)]:
        nn.init.uniform_(norm.weight, -1, 1)  # also negative: the pool stands after BatchNorm
        nn.init.normal_(norm.running_mean)
    x = torch.randn(8, 1, 28, 28)
    plain = x
    for layer in model:
        if isinstance(layer, nn.MaxPool2d):
            plain = nn.functional.max_pool2d(plain.relu(), 2)
        elif not isinstance(layer, nn.Dropout | nn.Dropout2d):
            plain = layer(plain)
    assert torch.allclose(model(x), plain, atol=1e-6)
