"""Trainings that are stacked into one, against the same trainings one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from sweeper.core.config import Placement, RunConfig
from sweeper.core.errors import Diverged
from sweeper.core.results import EpochResult, TrainResult
from sweeper.training.folds import finish
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.network import build_model
from sweeper.training.optimizer import AdamW
from sweeper.training.seeds import seeded
from sweeper.training.stacked import Stack, Step, signature, train_members

CPU = torch.device("cpu")
BASE = RunConfig(model="small", dataset="sample", epochs=3, batch_size=64)


def members(**changes: object) -> list[RunConfig]:
    """Three configurations of one signature that differ in everything a member may have of its own."""
    own = [
        {"seed": 1, "lr": 1e-3, "conv_dropout": 0.1, "head_dropout": 0.2, "weight_decay": 0.0, "schedule": "constant"},
        {"seed": 2, "lr": 3e-3, "conv_dropout": 0.3, "head_dropout": 0.5, "weight_decay": 0.1, "schedule": "cosine"},
        {"seed": 3, "lr": 5e-4, "conv_dropout": 0.2, "head_dropout": 0.3, "weight_decay": 0.01, "schedule": "onecycle"},
    ]
    augmentations = ["none", "crop-flip", "crop-flip-erase"]
    return [BASE.derive(**o, augmentation=a, **changes) for o, a in zip(own, augmentations, strict=True)]


def run(
    configs: list[RunConfig], data: Data, let_go: dict[int, frozenset[int]] | None = None
) -> tuple[list[Step], dict[int, TrainResult]]:
    """Every epoch of stacked trainings, and their results; `let_go` are members to send away after an epoch."""
    training = train_members(configs, data)
    steps = [next(training)]
    while True:
        try:
            steps.append(training.send((let_go or {}).get(len(steps), frozenset())))
        except StopIteration as stop:
            return steps, stop.value


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision, in which rounding cannot hide an error, nor be taken for one."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("placement", list(Placement))
def test_each_member_takes_the_steps_it_takes_alone(placement: Placement, model: str):
    configs = members(placement=placement, model=model)
    rates = torch.tensor([c.lr for c in configs])
    pixels, labels = torch.randn(4, 8, 3, 28, 28), torch.randint(10, (4, 3, 8))  # steps, images, members

    stack = Stack(configs, CPU)
    masks = stack.generators(epoch=1)
    for x, y in zip(pixels, labels, strict=True):
        losses = F.cross_entropy(stack.forward(x, masks).flatten(0, 1), y.flatten(), reduction="none")
        losses.view(3, 8).mean(1).sum().backward()
        norms = stack.gradient_norms()
        stack.step(rates)

    for row, config in enumerate(configs):
        with seeded(config, 0):
            alone = build_model(config)
        optimizer = AdamW(alone, config.weight_decay)
        with seeded(config, 1):
            for x, y in zip(pixels[:, :, row, None], labels[:, row], strict=True):
                optimizer.zero_grad()
                F.cross_entropy(alone(x), y).backward()
                norm = torch.nn.utils.get_total_norm([p.grad for p in alone.parameters() if p.grad is not None])
                optimizer.step(config.lr)
        expected = alone.state_dict()
        found = stack.weights(row)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10, msg=f"{name} of member {row}")
        assert norms[row].item() == pytest.approx(norm.item(), rel=1e-9)


@pytest.mark.parametrize("placement", [Placement.NONE, Placement.BN_DROPOUT, Placement.IC])
def test_whole_trainings_agree_up_to_rounding(placement: Placement, tiny: Data):
    configs = [c.derive(lr=1e-4) for c in members(placement=placement)]
    steps, results = run(configs, tiny)
    assert [set(step) for step in steps] == [{0, 1, 2}] * 3
    for member, config in enumerate(configs):
        alone = finish(train(config, tiny))
        assert [e.epoch for e in results[member].history] == [1, 2, 3]
        for found, expected in zip(results[member].history, alone.history, strict=True):
            assert found.val_loss == pytest.approx(expected.val_loss, abs=1e-4)
            assert found.train_loss == pytest.approx(expected.train_loss, abs=1e-4)
            assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3)
            assert found.lr == expected.lr
        for name, value in alone.weights.items():
            torch.testing.assert_close(results[member].weights[name], value, rtol=0, atol=1e-5)
        assert results[member].stability is not None
        assert int(results[member].evaluation.confusion.sum()) == len(tiny.val)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_member_that_is_sent_away_is_gone_and_the_others_do_not_notice(tiny: Data, gone: int):
    configs = members()
    _, whole = run(configs, tiny)
    steps, rest = run(configs, tiny, let_go={1: frozenset({gone})})
    others = {0, 1, 2} - {gone}
    assert [set(step) for step in steps] == [{0, 1, 2}, others, others]
    assert set(rest) == others
    for member in others:
        for found, expected in zip(rest[member].history, whole[member].history, strict=True):
            assert found.val_loss == pytest.approx(expected.val_loss, abs=1e-3)


def test_a_member_that_diverges_ends_alone(tiny: Data):
    configs = members()
    configs[1] = configs[1].derive(lr=1e9, schedule="constant")
    steps, rest = run(configs, tiny)
    assert isinstance(steps[0][1], Diverged)
    assert set(rest) == {0, 2}
    _, others = run([configs[0], configs[2]], tiny)
    for found, expected in ((rest[0], others[0]), (rest[2], others[1])):
        assert math.isfinite(found.history[-1].val_loss)
        assert found.history[-1].val_loss == pytest.approx(expected.history[-1].val_loss, abs=1e-3)


def test_when_all_have_diverged_the_training_is_over(tiny: Data):
    steps, rest = run([c.derive(lr=1e9, schedule="constant") for c in members()], tiny)
    assert len(steps) == 1
    assert rest == {}


def test_a_result_is_one_of_every_member_at_each_epoch(tiny: Data):
    steps, _ = run(members(epochs=1), tiny)
    assert all(isinstance(result, EpochResult) for result in steps[0].values())


def test_what_a_member_may_have_of_its_own_is_not_in_its_signature():
    assert len({signature(config) for config in members()}) == 1


@pytest.mark.parametrize(
    "changes",
    [{"model": "medium"}, {"batch_size": 32}, {"epochs": 4}, {"placement": "bn"}, {"split": "blog"},
     {"precision": "bf16"}, {"conv_dropout": 0.0}, {"train_images": 200}],
    ids=str,
)  # fmt: skip
def test_what_changes_the_shape_of_a_training_is_in_its_signature(changes: dict[str, object]):
    assert signature(BASE) != signature(BASE.derive(**changes))
