"""Schedules of Dropout: in which epochs it acts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError
from sweeper.core.experiments import experiment
from sweeper.core.results import TrainResult
from sweeper.training import loop
from sweeper.training.dropout import dropout_layers, schedule_dropout
from sweeper.training.folds import finish
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.start import has_captured_step
from sweeper.training.xray.examine import examine

BASE = RunConfig.create(model="small", placement="dropout-bn", conv_dropout=0.25, head_dropout=0.5, epochs=4,
                        batch_size=100, dataset="sample")  # fmt: skip
SCHEDULES = {  # and the epochs in which Dropout acts
    "constant": ({}, [1, 2, 3, 4]),
    "early": ({"dropout_schedule": "early", "dropout_switch": 1}, [1]),
    "late": ({"dropout_schedule": "late", "dropout_switch": 3}, [4]),
}


@pytest.mark.parametrize(("fields", "acts"), SCHEDULES.values(), ids=SCHEDULES)
def test_layers_have_their_rates_in_the_epochs_of_the_schedule_and_0_in_the_others(
    tiny: Data, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], acts: list[int]
):
    rates: list[list[float]] = []  # of the layers, an epoch each
    built = loop.build_model

    def watched(*args: Any) -> nn.Module:
        model = built(*args)
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]
        model.register_forward_pre_hook(
            lambda model, _: rates.append([layer.p for layer in layers]) if model.training else None
        )
        return model

    monkeypatch.setattr(loop, "build_model", watched)
    finish(train(BASE.derive(**fields), tiny))
    steps = 3
    expected = [[0.25, 0.25, 0.5] if epoch in acts else [0.0, 0.0, 0.0] for epoch in (1, 2, 3, 4)]
    assert rates == [of_epoch for of_epoch in expected for _ in range(steps)]


def test_dropout_that_does_not_act_leaves_the_training_of_the_network_without_it(tiny: Data):
    """With `late`, the epochs before the switch are those of rate 0, bit for bit; from there on the two differ."""
    late = finish(train(BASE.derive(dropout_schedule="late", dropout_switch=2), tiny))
    never = finish(train(BASE.derive(dropout_schedule="late", dropout_switch=3), tiny))
    constant = finish(train(BASE, tiny))

    def losses(result: TrainResult) -> list[float]:
        return [epoch.val_loss for epoch in result.history]

    assert losses(late)[:2] == losses(never)[:2]
    assert losses(late)[2] != losses(never)[2]
    assert losses(late)[0] != losses(constant)[0]


def test_every_kind_of_dropout_follows_the_schedule():
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    model = nn.Sequential(*(kind(0.3) for kind in kinds), nn.Sequential(nn.Dropout(0.4)))
    layers = dropout_layers(model)
    config = BASE.derive(dropout_schedule="early", dropout_switch=2)
    schedule_dropout(layers, config, 3)
    assert [layer.p for layer in layers] == [0.0] * 7
    schedule_dropout(layers, config, 2)
    assert [layer.p for layer in layers] == [0.3] * 6 + [0.4]


def test_the_xray_takes_the_rates_of_the_last_epoch(tiny: Data):
    """Without Dropout in the last epoch there is none whose effect a closed form would give."""
    forms = {}
    for schedule in ("early", "late"):
        config = BASE.derive(dropout_schedule=schedule, dropout_switch=3)
        xray = examine(config, finish(train(config, tiny)), tiny)
        forms[schedule] = [layer.closed_form for layer in xray.layers]
    assert all(map(math.isnan, forms["early"]))
    assert max(abs(form - 1) for form in forms["late"]) > 0.1


def test_the_captured_step_of_a_gpu_has_dropout_in_all_epochs_only(tiny: Data):
    assert has_captured_step(BASE, tiny.spec)
    assert not has_captured_step(BASE.derive(dropout_schedule="early", dropout_switch=2), tiny.spec)


# --- the fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [0, 4, 5])
def test_the_switch_lies_between_two_epochs(switch: int):
    with pytest.raises(ConfigError, match=f"dropout_switch={switch}: dropout_schedule=late needs 1 to epochs - 1"):
        BASE.derive(dropout_schedule="late", dropout_switch=switch)


def test_a_network_without_dropout_has_one_description():
    config = BASE.derive(dropout_schedule="early", dropout_switch=2)
    without = config.derive(placement="bn")
    assert (without.dropout_schedule, without.dropout_switch) == ("constant", 0)
    assert config.derive(dropout_schedule="constant").dropout_switch == 0
    at_rate_0 = {"conv_dropout": 0.0, "head_dropout": 0.0}
    assert config.derive(**at_rate_0).key == BASE.derive(**at_rate_0).key


def test_each_schedule_is_another_training():
    keys = {BASE.derive(dropout_schedule=name, dropout_switch=switch).key
            for name in ("early", "late") for switch in (1, 2)}  # fmt: skip
    assert len(keys | {BASE.key}) == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dropout_switch": 3}, "only --dropout-schedule early and late use it"),
        ({"dropout_schedule": "early", "dropout_switch": 3, "placement": "bn"}, "placement bn has no Dropout"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(fields: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        experiment(6, **fields)


def test_the_rates_of_a_network_of_ones_own_follow_the_schedule_too():
    own = RunConfig.create(model="net.py:build", placement="own", dropout_schedule="late", dropout_switch=1, epochs=2)
    layers = dropout_layers(nn.Sequential(nn.Dropout(0.7)))
    schedule_dropout(layers, own, 1)
    assert [layer.p for layer in layers] == [0.0]
    assert torch.equal(next(iter(layers))(torch.ones(50)), torch.ones(50))
