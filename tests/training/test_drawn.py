"""A network's blocks as they are drawn: the layers that its modules call, in their order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sweeper.core.config import RunConfig, placements_of
from sweeper.data.fashion import SAMPLE
from sweeper.sweep.networks import with_source
from sweeper.training.activations import activation_bytes
from sweeper.training.networks import build_model
from sweeper.training.networks.drawn import drawing

NAMES = {
    nn.Conv2d: "Conv", nn.BatchNorm2d: "BatchNorm", nn.BatchNorm1d: "BatchNorm", nn.ReLU: "ReLU", nn.Linear: "Linear",
    nn.MaxPool2d: "MaxPool", nn.AdaptiveAvgPool2d: "AvgPool", nn.Dropout: "Dropout 0.4", nn.Dropout2d: "Dropout2d 0.1",
}  # fmt: skip


def config(model: str, placement: str) -> RunConfig:
    return RunConfig.create(model=model, placement=placement, conv_dropout=0.1, head_dropout=0.4)


@pytest.mark.parametrize("placement", placements_of("medium"))
def test_the_lines_show_the_layers_that_the_network_ends_with(placement: str):
    chosen = config("medium", placement)
    called: list[str] = []
    model = build_model(chosen, SAMPLE.spec)
    for layer in model.modules():
        name = next((name for kind, name in NAMES.items() if isinstance(layer, kind)), "")
        layer.register_forward_hook(lambda *_, name=name: called.append(name) if name else None)
    model(torch.zeros(2, 1, 28, 28))
    lines = drawing(chosen, SAMPLE.spec)[0].splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["each convolution", "hidden layer", "head"]
    shown = [word for line in lines for word in line.partition(": ")[2].split(" → ")]
    assert shown == called[-len(shown) :]


def test_a_residual_block_is_drawn_with_its_shortcut():
    lines, code = drawing(config("resnet20", "bn-dropout-add"), SAMPLE.spec)
    assert "[BatchNorm → ReLU → Conv → BatchNorm → ReLU → Conv] + shortcut → Dropout 0.1" in lines
    assert "head: BatchNorm → ReLU → AvgPool → Dropout 0.4 → Linear" in lines
    assert "shortcut(x) + branch(x); behind the sum: nn.Dropout(0.1)" in code


@pytest.mark.parametrize(("model", "placement"), [("small", "ic"), ("medium", "dropout-bn"), ("resnet20", "bn")])
def test_the_code_builds_what_is_drawn(model: str, placement: str):
    built: dict[str, nn.Module] = {}
    lines, code = drawing(config(model, placement), SAMPLE.spec)
    exec(code, {"nn": nn}, built)
    names = [
        next(name for kind, name in NAMES.items() if isinstance(layer, kind)).split()[0]
        for block in built.values() if isinstance(block, nn.Sequential)
        for layer in block if not isinstance(layer, nn.Flatten)
    ]  # fmt: skip
    drawn = [word for line in lines.splitlines() for word in line.partition(": ")[2].replace("[", "").split(" → ")]
    assert names == [word.split()[0].removesuffix("]") for word in drawn]


def test_activations_of_a_linear_stack_are_counted_by_hand(tmp_path: Path):
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n\n\ndef build(images):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))\n"
    )
    chosen = with_source(RunConfig.create(model=f"{tmp_path}/flat.py:build", placement="own", batch_size=32))
    images, hidden, log_softmax, labels, total = 784, 50, 10, 2, 1 / 32
    floats = images + hidden + log_softmax + labels  # a label is an int64; ReLU and the next layer share its output
    assert activation_bytes(chosen, SAMPLE.spec) == int(32 * 4 * (floats + total))


def test_batch_norm_keeps_more_activations():
    plain, normed = (activation_bytes(config("small", placement), SAMPLE.spec) for placement in ("none", "bn"))
    assert normed > 1.1 * plain
