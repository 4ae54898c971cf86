"""The options of train and optimize: every field of a configuration, and the command that trains one again."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.cli.main import cli
from sweeper.cli.options import fields_of
from sweeper.cli.options import given as given_of
from sweeper.core.config import ConfigError, RunConfig, placements_of
from sweeper.core.experiments import EXPERIMENTS, experiment, train_options

FOUND_OUT = {"model_sha256", "dataset_sha256"}  # of files, not given
NAMES = {"experiment": "exp"}


@pytest.mark.parametrize(("command", "decided"), [("train", set()), ("optimize", {"split"})])  # by --folds
def test_every_field_of_a_configuration_is_an_option(command: str, decided: set[str]):
    options = {option.name for option in cli.commands[command].params}
    fields = {NAMES.get(name, name) for name in RunConfig.model_fields.keys() - FOUND_OUT - decided}
    assert fields <= options


def parsed(words: list[str]) -> RunConfig:
    """Return the configuration that `sweeper train WORDS` trains, on any machine."""
    options: dict[str, Any] = cli.commands["train"].make_context("train", words, parent=click.Context(cli)).params
    named = given_of(options, "split", "dataset") | fields_of(options)
    return experiment(options["exp"], **named, image_size=options["image_size"] or 0)


RATES = st.floats(0, 1, exclude_max=True)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["small", "medium", "large", "resnet20", "package.module:build"]),
        "placement": st.sampled_from(placements_of("resnet20")),
        "conv_dropout": RATES,
        "head_dropout": RATES,
        "dropout_schedule": st.sampled_from(["early", "late"]),
        "dropout_switch": st.integers(1, 3),
        "epochs": st.integers(4, 50),
        "batch_size": st.sampled_from([2, 64, 1000]),
        "lr": st.floats(1e-9, 1),
        "schedule": st.sampled_from(["constant", "cosine", "onecycle"]),
        "weight_decay": st.floats(0, 1),
        "augmentation": st.sampled_from(["none", "crop"]),
        "train_images": st.sampled_from([0, 1000]),
        "dataset": st.sampled_from(["sample", "mnist", "package.module:images"]),
        "seed": st.integers(0, 2**31 - 1),
    },
)
SPLITS = st.sampled_from([{}, {"split": "holdout"}, {"split": "folds", "folds": 3}])
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "width"]), st.one_of(st.integers(), st.booleans(), st.text()))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.sampled_from(list(EXPERIMENTS)), FIELDS, SPLITS, ARGUMENTS)
def test_the_options_of_a_configuration_train_it_again(
    number: int, fields: dict[str, Any], split: dict[str, Any], arguments: dict[str, Any]
):
    if ":" in fields.get("model", ""):
        fields |= {f"model.{name}": value for name, value in arguments.items()}
    try:
        config = experiment(number).derive(**fields, **split)
    except ConfigError:  # a placement of residual blocks in a plain network
        return
    assert parsed(train_options(config)) == config


def test_the_placement_of_a_network_without_layers_is_its_own_and_not_given():
    words = train_options(RunConfig(model="package.module:build", placement="own", dataset="sample"))
    assert parsed(words).model == "package.module:build"
    assert "--placement" not in words


def test_a_configuration_of_no_experiment_is_trained_as_a_variant_of_the_default_one():
    config = RunConfig(placement="none", dataset="sample")
    assert parsed(train_options(config)).derive(experiment=0) == config


@pytest.mark.parametrize(("word", "argument"), [("n=3", 3), ("n=x", "x"), ('n="3"', "3"), ("n=true", True)])
def test_an_argument_of_a_network_is_a_number_a_truth_value_or_text(word: str, argument: Any):
    assert parsed(["--model", "a.b:c", "--model-arg", word]).model_args == (("n", argument),)
