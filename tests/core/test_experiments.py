from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import Placement, RunConfig
from sweeper.core.errors import ConfigError
from sweeper.core.experiments import EXPERIMENT_TITLES, EXPERIMENTS, FIRST_8, experiment

# of the eight experiments in 0.1.0, which called the split `test` `blog`
FORMER_KEYS = {
    1: "232bc6e29ce07f57", 2: "55491190a80f7e6b", 3: "c583fdf0bd081f47", 4: "0ba0796d3a81acc0",
    5: "4757fb12ca8e3e02", 6: "859bd5c5824a2675", 7: "24dd852e89a97fba", 8: "beee2fa491ac4423",
}  # fmt: skip


# The article's table: model, BatchNorm, Dropout, augmentation, scheduler (None: the table leaves it open).
TABLE = {
    1: ("small", False, False, False, False),
    2: ("medium", False, False, False, False),
    3: ("medium", False, False, True, None),
    4: ("medium", True, False, False, True),
    5: ("medium", False, True, False, None),
    6: ("medium", True, True, False, None),
    7: ("medium", True, True, True, None),
    8: ("large", True, True, True, None),
}


@pytest.mark.parametrize("number", TABLE)
def test_an_experiment_is_as_in_the_article(number: int):
    config = experiment(number)
    model, batch_norm, dropout, augmentation, scheduler = TABLE[number]
    assert (config.experiment, config.split, config.dataset) == (number, "test", "fashion-mnist")
    assert config.model == model
    assert config.placement.has_batch_norm is batch_norm
    assert (config.conv_dropout > 0) is (dropout and number != 8)  # the article has it after convolutions, too
    assert (config.head_dropout > 0) is dropout
    assert (config.augmentation != "none") is augmentation
    assert scheduler is None or (config.schedule != "constant") is scheduler
    if batch_norm and dropout and number != 8:
        assert config.placement is Placement.BN_DROPOUT  # as the article advises


def test_experiment_8_is_the_frozen_recipe_and_its_first_declaration_is_kept():
    file = Path(__file__).parents[2] / "docs/results/benchmarks/fair_accuracy-recipe-h200-2026-11-26.json"
    frozen = RunConfig.create(**json.loads(file.read_text())["recipe"])
    assert experiment(8, device=frozen.device, precision=frozen.precision).key == frozen.key
    assert experiment(8, **FIRST_8).key == FORMER_KEYS[8]


def test_there_are_eight_experiments_each_with_a_title():
    assert set(EXPERIMENTS) == set(EXPERIMENT_TITLES) == set(range(1, 9))


def test_experiment_2_has_no_l2():
    assert experiment(2).weight_decay == 0


def test_the_former_name_of_the_split_test_is_accepted_and_stays_in_the_key():
    new, former = experiment(6, split="test"), experiment(6, split="blog")
    assert new == former == RunConfig.from_params(new.to_params() | {"split": "blog"})
    assert new.to_params()["split"] == "test"
    assert new.key == FORMER_KEYS[6]


@pytest.mark.parametrize("number", EXPERIMENTS)
def test_the_key_of_an_experiment_is_that_of_0_1_0(number: int):
    """For experiment 8, in its first declaration."""
    assert experiment(number, **(FIRST_8 if number == 8 else {})).key == FORMER_KEYS[number]


def test_fields_replace_those_of_an_experiment():
    assert experiment(6, epochs=1, seed=3).to_params() == experiment(6).to_params() | {"epochs": "1", "seed": "3"}


@pytest.mark.parametrize("number", [0, 9, -1, "abc"])
def test_an_experiment_that_does_not_exist_is_refused_and_the_eight_are_listed(number: Any):
    with pytest.raises(ConfigError, match=f"experiment {number} does not exist") as caught:
        experiment(number)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(f"{n} {title}" in message for n, title in EXPERIMENT_TITLES.items())


def test_a_bad_field_of_an_experiment_is_refused():
    with pytest.raises(ConfigError, match="epochs='0'"):
        experiment(6, epochs=0)
