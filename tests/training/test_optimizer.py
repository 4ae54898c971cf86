from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sweeper.core.config import Placement, RunConfig
from sweeper.data.fashion import SAMPLE
from sweeper.training.networks import build_model
from sweeper.training.optimizer import AdamW, learning_rate


def trained(config: RunConfig, ours: bool) -> list[torch.Tensor]:
    """The weights after a few steps at falling rates."""
    torch.manual_seed(1)
    model = build_model(config, SAMPLE.spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(2)
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    slow = torch.optim.AdamW(groups, fused=True)
    fast = AdamW(model, config.weight_decay)
    for step in range(5):
        lr = config.lr / (step + 1)
        logits = model(torch.randn(16, 1, 28, 28, generator=generator))
        F.cross_entropy(logits, torch.arange(16) % 10).backward()
        if ours:
            fast.step(lr)
            fast.zero_grad()
        else:
            for group in slow.param_groups:
                group["lr"] = lr
            slow.step()
            slow.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in model.parameters())
    return list(model.state_dict().values())


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("placement", [Placement.NONE, Placement.BN_DROPOUT])
def test_steps_are_those_of_torch_in_each_bit(placement: Placement, weight_decay: float) -> None:
    config = RunConfig(model="small", placement=placement, lr=0.01, weight_decay=weight_decay)
    assert all(
        torch.equal(ours, torchs) for ours, torchs in zip(trained(config, True), trained(config, False), strict=True)
    )


CONSTANT, COSINE, ONECYCLE = "constant", "cosine", "onecycle"


@pytest.mark.parametrize(
    ("schedule", "at", "share"),
    [
        (CONSTANT, 0, 1),
        (CONSTANT, 999, 1),
        (COSINE, 0, 1),
        (COSINE, 250, (1 + math.sqrt(0.5)) / 2),
        (COSINE, 500, 1 / 2),
        (COSINE, 750, (1 - math.sqrt(0.5)) / 2),
        (COSINE, 1_000, 0),
        (ONECYCLE, 0, 1 / 25),
        (ONECYCLE, 150, 13 / 25),
        (ONECYCLE, 300, 1),
        (ONECYCLE, 650, 1 / 2),
        (ONECYCLE, 1_000, 0),
    ],
)
def test_the_learning_rate_at_known_points(schedule: Any, at: int, share: float) -> None:
    assert learning_rate(RunConfig(schedule=schedule, lr=0.02), at, 1_000) == pytest.approx(0.02 * share, abs=1e-12)


def test_onecycle_rises_then_falls() -> None:
    rates = [learning_rate(RunConfig(schedule="onecycle"), step, 1_000) for step in range(1_001)]
    assert all(a < b for a, b in pairwise(rates[:301]))
    assert all(a > b for a, b in pairwise(rates[300:]))


TRAIN = """
import sys
from sweeper.core.config import RunConfig
from sweeper.training.images import load
from sweeper.data.sources import find
from sweeper.training.start import start
from sweeper.training.folds import finish
config = RunConfig(model="small", dataset="sample", epochs=1, train_images=256)
finish(start(config, load(config, find("sample"))))
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))])
"""


def test_training_does_not_import_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
