from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from sweeper.core.config import Placement, RunConfig
from sweeper.training.network import build_model
from sweeper.training.optimizer import AdamW


def trained(config: RunConfig, ours: bool) -> list[torch.Tensor]:
    """The weights after a few steps at falling rates."""
    torch.manual_seed(1)
    model = build_model(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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


TRAIN = """
import sys
from sweeper.config import RunConfig
from sweeper.data import load
from sweeper.dataset import resolve
from sweeper.start import start
from sweeper.train import finish
config = RunConfig(model="small", dataset="sample", epochs=1, train_images=256)
finish(start(config, load(config, resolve("sample")[1])))
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))])
"""


def test_training_does_not_import_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
