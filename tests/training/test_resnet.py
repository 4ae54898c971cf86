"""The residual network: its layers in the order in which an image passes them, for every placement."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.core.config import RunConfig, placements_of
from sweeper.core.images import ImageSpec
from sweeper.data.fashion import SAMPLE
from sweeper.training.networks import build_model, parameter_count
from sweeper.training.networks.layers import Layers, Residual

WORDS = {
    nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.Dropout: "drop", nn.AdaptiveAvgPool2d: "pool",
    nn.BatchNorm1d: "bn1", nn.Linear: "linear",
}  # fmt: skip

# placement: the branch of a block, what follows the addition, and the head behind the last block
GRAMMAR = {
    "none": ("relu conv relu conv", "", "relu pool linear"),
    "bn": ("bn relu conv bn relu conv", "", "bn relu pool linear"),
    "dropout": ("relu drop conv relu drop conv", "", "relu pool drop linear"),
    "bn-dropout": ("bn relu drop conv bn relu drop conv", "", "bn relu pool drop linear"),
    "dropout-bn": ("drop bn relu conv drop bn relu conv", "", "bn relu pool drop linear"),
    "bn-head-dropout": ("bn relu conv bn relu conv", "", "bn relu pool drop linear"),
    "ic": ("relu bn drop conv relu bn drop conv", "", "relu pool bn1 drop linear"),
    "bn-dropout-last": ("bn relu conv bn relu drop conv", "", "bn relu drop pool linear"),
    "bn-dropout-add": ("bn relu conv bn relu conv", "drop", "bn relu pool drop linear"),
    "bn-pool-dropout": ("bn relu conv bn relu conv", "", "bn relu drop pool linear"),
}
OF_RESIDUAL = ("bn-dropout-last", "bn-dropout-add", "bn-pool-dropout")


def network(placement: str, images: ImageSpec = SAMPLE.spec, **fields: Any) -> nn.Module:
    fields = {"conv_dropout": 0.25, "head_dropout": 0.5} | fields
    return build_model(RunConfig.create(model="resnet20", placement=placement, **fields), images)


def words_of(model: nn.Module, x: torch.Tensor) -> list[str]:
    """The layers in the order of their calls; a block as its branch, and + where the sum is taken."""
    called: list[str] = []

    def record(layer: nn.Module, *_: object) -> None:
        called.append("+" if isinstance(layer, Residual) else WORDS[type(layer)])

    for layer in model.modules():
        if isinstance(layer, Residual) or type(layer) in WORDS:
            layer.register_forward_hook(record)
    model(x)
    return called


# --- order ---------------------------------------------------------------------------------------


def test_the_grammar_of_these_tests_has_every_placement():
    assert {p.value for p in placements_of("resnet20")} == set(GRAMMAR)


@pytest.mark.parametrize("placement", GRAMMAR)
def test_the_layers_are_called_in_the_order_of_the_grammar(placement: str):
    branch, after, head = GRAMMAR[placement]
    blocks = []
    for number in range(9):
        projected = "conv " if number in (3, 6) else ""  # the shortcut where the shape changes
        blocks.append(f"{projected}{branch} + {after}")
    expected = " ".join(["conv", *blocks, head]).split()
    assert words_of(network(placement), torch.randn(2, 1, 28, 28)) == expected


@pytest.mark.parametrize("placement", GRAMMAR)
def test_each_part_drops_at_its_own_rate(placement: str):
    branch, after, _ = GRAMMAR[placement]
    model = network(placement)
    in_blocks = 9 * f"{branch} {after}".split().count("drop")
    rates = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.25] * in_blocks + [0.5] * (len(rates) - in_blocks)
    assert len(rates) - in_blocks == ("drop" in GRAMMAR[placement][2])


def test_dropout_before_the_pooling_drops_single_values():
    """Whole channels would be the same before the pooling and after it."""
    x = torch.ones(2, 8, 4, 4)
    head = Layers(RunConfig.create(model="resnet20", placement="bn-pool-dropout", head_dropout=0.5)).head(
        8, 3, pool=True
    )
    dropped = head[0](x)
    assert isinstance(head[0], nn.Dropout)
    assert all(0 < (channel == 0).sum() < 16 for channel in dropped.flatten(0, 1))


def test_a_block_adds_its_input_to_its_branch_and_leaves_the_input_as_it_is():
    for placement in GRAMMAR:
        config = RunConfig.create(model="resnet20", placement=placement)
        block = Layers(config).residual(4, 4)[0].eval()
        x = torch.randn(3, 4, 8, 8)
        before = x.clone()
        assert torch.equal(block(x), before + block.branch(before)), placement
        assert torch.equal(x, before), placement


# --- sizes ---------------------------------------------------------------------------------------


def test_it_has_about_as_many_parameters_as_in_the_article():
    counts = {placement: parameter_count(network(placement)) for placement in GRAMMAR}
    assert counts["bn"] == 271_994  # 0.27 M: He et al. 2016, table 6
    assert {placement for placement, count in counts.items() if count == 271_994} == {
        "bn", "bn-dropout", "bn-head-dropout", *OF_RESIDUAL,
    }  # fmt: skip
    assert counts["none"] == counts["dropout"] == 271_402
    assert counts["dropout-bn"] == counts["ic"] == 272_778


@pytest.mark.parametrize(
    ("side", "channels", "classes"), [(8, 1, 2), (28, 1, 10), (32, 3, 100), (97, 3, 5), (256, 3, 2)]
)
def test_it_takes_images_of_any_size(side: int, channels: int, classes: int):
    images = ImageSpec("own", "", tuple(map(str, range(classes))), (side, side + 3, channels), (0.5,) * channels,
                       (0.5,) * channels, 100, 100, 10)  # fmt: skip
    model = network("bn-dropout-last", images)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    seen: list[int] = []
    first.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[2]))
    assert model(torch.randn(2, channels, side, side + 3)).shape == (2, classes)
    assert seen[0] <= 64


# --- the page ------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "placements.md"
DRAWN = {"Conv": "conv", "BN": "bn", "ReLU": "relu", "Drop": "drop", "Pool": "pool", "Linear": "linear"}


def test_the_drawings_of_the_page_are_those_of_the_grammar():
    (block,) = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    drawn = {}
    for drawing in block.split("\n\n"):
        title, line, _ = drawing.strip().split("\n")
        branch, _, rest = line.partition("+")
        after, head = rest.split("──", 1)
        drawn[title.split()[0]] = tuple(
            " ".join(DRAWN[word] for word in re.findall(r"\w+", part) if word in DRAWN)
            for part in (branch, after, head)
        )
    expected = {name: (branch, after, head.replace("bn1", "bn")) for name, (branch, after, head) in GRAMMAR.items()}
    assert drawn == expected
