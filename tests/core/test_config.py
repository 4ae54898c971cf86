from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeper.core.config import Placement, RunConfig, placements_of
from sweeper.core.errors import ConfigError
from sweeper.core.experiments import FIRST_8, experiment
from sweeper.core.names import check_name

# placement: (Dropout among the convolutions, Dropout in the head, BatchNorm)
HOLDS = {
    "none": (False, False, False),
    "bn": (False, False, True),
    "dropout": (True, True, False),
    "bn-dropout": (True, True, True),
    "dropout-bn": (True, True, True),
    "bn-head-dropout": (False, True, True),
    "ic": (True, True, True),
}
OF_RESIDUAL = {
    "bn-dropout-last": (True, True, True),
    "bn-dropout-add": (True, True, True),
    "bn-pool-dropout": (False, True, True),
}


def refusal(**fields: Any) -> str:
    """The message with which `fields` are refused; always one line."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.create(**fields)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- bad values ----------------------------------------------------------------------------------


BAD = {  # what a field refuses, and what the message says is allowed
    "conv_dropout head_dropout": {
        "greater than or equal to 0": [-0.1], "less than 1": [1.0, 1.1], "finite number": [math.nan, "nan"],
        "valid number": ["x"],
    },
    "batch_size": {
        "greater than or equal to 1": [0, -1], "valid integer": [1.5, "1.5", "a"],
        "less than or equal to 1000000000": [1_000_000_001],
    },
    "epochs": {"greater than or equal to 1": [0, -1], "valid integer": ["1e3"]},
    "lr": {"greater than 0": [0, -1], "finite number": [math.nan, math.inf, "inf"]},
    "weight_decay seed": {"greater than or equal to 0": [-1]},
    "train_images": {
        "greater than or equal to 0": [-1], "less than or equal to 1000000000": [1_000_000_001],
        "valid integer": ["some"],
    },
    "experiment": {"less than or equal to 8": [9]},
    "model": {"use small, medium, large,": ["huge"]},
    "placement": {", ".join(f"'{p}'" for p in list(Placement)[:-1]): ["bn-bn"]},
    "device": {"auto, cpu, cuda or cuda:N": ["foo"]},
    "precision": {"'fp32' or 'bf16'": ["fp64"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        (field, value, allowed)
        for names, refused in BAD.items()
        for field in names.split()
        for allowed, values in refused.items()
        for value in values
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it_and_what_is_allowed(field: str, value: Any, allowed: str):
    message = refusal(**{field: value})
    assert message.startswith(f"{field}={str(value)!r}: ")
    assert allowed in message


def test_a_line_break_in_a_bad_value_does_not_break_the_message():
    assert r"'a\nb'" in refusal(lr="a\nb")


def test_a_long_bad_value_is_cut_short():
    assert len(refusal(batch_size="1" * 5_000)) < 200


CONFLICTS = {
    "batch_size=1 with placement=bn: BatchNorm needs 2 or more": {"batch_size": 1, "placement": "bn"},
    "batch_size=1 with placement=ic: BatchNorm needs 2 or more": {"batch_size": 1, "placement": "ic"},
    "folds=0: cross-validation needs 2 or more": {"split": "folds"},
    "folds=1: cross-validation needs 2 or more": {"split": "folds", "folds": 1},
    "folds=5: only allowed with split=folds": {"split": "holdout", "folds": 5},
    "batch_size=128: larger than train_images=127": {"train_images": 127},
}


@pytest.mark.parametrize(("message", "fields"), CONFLICTS.items(), ids=CONFLICTS)
def test_fields_that_do_not_fit_together_are_refused_alone_and_beside_other_wrong_fields(
    message: str, fields: dict[str, Any]
):
    assert refusal(**fields).startswith(message)
    both = refusal(**fields, epochs=0, device="foo")
    assert all(part in both for part in (message, "epochs='0'", "device='foo'"))


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 1, "placement": "dropout"},
        {"train_images": 128},
        {"train_images": 73_257, "batch_size": 65_536},  # the training images of SVHN
    ],
    ids=str,
)
def test_the_nearest_values_that_fit_together_are_taken(fields: dict[str, Any]):
    assert RunConfig.create(**fields).model_dump(include=set(fields)) == fields


def test_a_conflict_with_a_field_that_is_refused_itself_is_not_reported():
    assert refusal(split="half", folds=5).count("folds") == 1  # among the allowed splits
    assert "BatchNorm" not in refusal(placement="foo", batch_size=1)


def test_an_unknown_field_is_refused_and_the_fields_are_listed():
    message = refusal(droput=0.1)
    assert "'droput'" in message
    assert all(name in message for name in RunConfig.model_fields)


def test_all_bad_fields_are_in_one_message():
    bad = {"conv_dropout": 1.1, "head_dropout": "x", "batch_size": 0, "epochs": -1, "lr": math.inf, "nope": 1}
    message = refusal(**bad)
    assert [name for name in bad if name not in message.split(": the fields are")[0]] == []


def test_derive_validates_again():
    with pytest.raises(ConfigError, match="head_dropout"):
        RunConfig().derive(head_dropout=1.0)


@pytest.mark.parametrize("name", ["a", "9", "bn-dropout_v1.2", "x" * 100])
def test_a_study_may_have_a_plain_name(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 101, "../up", "a/b", ".hidden", "-option", "two words", "tab\t", "line\n", "nul\0", "<b>bold</b>", "ü"],
    ids=ascii,
)
def test_a_study_may_not_have_a_name_that_could_harm(name: str):
    with pytest.raises(ConfigError, match="1 to 100 letters, digits") as caught:
        check_name(name)
    message = str(caught.value)
    assert repr(name[:60]) in message
    assert len(message.splitlines()) == 1
    assert message.isprintable()


@pytest.mark.parametrize(
    "name", ["runs", "reproduce", "reproduce-quick", "reproduce-full", "reproduce-quick.looks.jsonl"]
)
def test_a_study_may_not_have_the_name_of_what_others_write(name: str):
    with pytest.raises(ConfigError, match="Choose another"):
        check_name(name)
    assert check_name(f"my-{name}") == f"my-{name}"


# --- one immutable value ---------------------------------------------------------------------------


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().lr = 1.0


def test_derive_changes_the_named_field_of_a_copy_only():
    config = experiment(6)
    derived = config.derive(seed=7)
    assert derived.seed == 7
    assert config.seed == 0
    assert derived.derive(seed=0) == config


@pytest.mark.parametrize("placement", HOLDS)
def test_a_rate_that_the_placement_lacks_is_0(placement: str):
    in_conv, in_head, _ = HOLDS[placement]
    config = RunConfig(placement=Placement(placement), conv_dropout=0.25, head_dropout=0.5)
    assert config.conv_dropout == (0.25 if in_conv else 0.0)
    assert config.head_dropout == (0.5 if in_head else 0.0)


def test_a_placement_knows_what_it_holds():
    assert {p.value: (p.has_conv_dropout, p.has_head_dropout, p.has_batch_norm) for p in Placement} == {
        **HOLDS, **OF_RESIDUAL, "own": (False, False, False),
    }  # fmt: skip


rates = st.floats(0, 1, exclude_max=True)
arguments = st.dictionaries(
    st.from_regex(r"[a-z_]\w{0,8}", fullmatch=True),
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    max_size=3,
)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    model = draw(st.sampled_from(["small", "medium", "large", "resnet20", "net.py:build", "nets.wide:build"]))
    own = st.just(Placement.OWN) if ":" in model else st.nothing()
    placement = draw(st.sampled_from(placements_of(model)) | own)
    schedule = draw(st.sampled_from(["constant", "early", "late"]))
    split = draw(st.sampled_from(["test", "holdout", "folds"]))
    return RunConfig.create(
        experiment=draw(st.integers(0, 8)),
        model=model,
        model_args=draw(arguments) if ":" in model else {},
        model_sha256="5" * 64 if ":" in model else "",
        placement=placement,
        conv_dropout=draw(rates),
        head_dropout=draw(rates),
        augmentation=draw(st.sampled_from(["none", "crop-flip", "crop-flip-erase"])),
        epochs=draw(st.integers(8, 10_000)),
        dropout_schedule=schedule,
        dropout_switch=draw(st.integers(1, 7)) if schedule != "constant" else 0,
        batch_size=draw(st.integers(2 if placement.has_batch_norm else 1, 60_000)),
        lr=draw(st.floats(0, exclude_min=True, allow_infinity=False)),
        weight_decay=draw(st.floats(0, allow_infinity=False)),
        schedule=draw(st.sampled_from(["constant", "cosine", "onecycle"])),
        seed=draw(st.integers(0, 2**31 - 1)),
        dataset=draw(st.sampled_from(["fashion-mnist", "sample"])),
        split=split,
        folds=draw(st.integers(2, 100)) if split == "folds" else 0,
        train_images=draw(st.sampled_from([0, 60_000])),
        device=draw(st.from_regex(r"cpu|cuda(:[0-9]{1,3})?", fullmatch=True)),
        precision=draw(st.sampled_from(["fp32", "bf16"])),
    )


@settings(deadline=None)
@given(config=configs())
def test_a_configuration_survives_mlflows_string_parameters_exactly(config: RunConfig):
    params = config.to_params()
    given = {f"model.{name}" for name, _ in config.model_args}
    fields = set(RunConfig.model_fields) - {"model_args"} - (config.later_fields_unused - {"train_images"})
    assert set(params) == fields | given
    assert all(type(value) is str for value in params.values())
    rebuilt = RunConfig.from_params(params | {"a parameter of someone else": "1"})
    assert rebuilt == config
    assert rebuilt.key == config.key


def test_parameters_recorded_before_there_was_a_number_of_training_images_rebuild_their_configuration():
    params = {name: value for name, value in experiment(6).to_params().items() if name != "train_images"}
    assert RunConfig.from_params(params) == experiment(6)


# --- the key ---------------------------------------------------------------------------------------


def test_a_negative_zero_is_a_zero():
    assert RunConfig(conv_dropout=-0.0, weight_decay=-0.0).key == RunConfig(conv_dropout=0.0, weight_decay=0.0).key


def test_the_number_of_an_experiment_does_not_change_its_key():
    assert experiment(6).key == experiment(6).derive(experiment=0).key


@pytest.mark.parametrize(
    "change",
    [
        {"model": "small"},
        {"conv_dropout": 0.11},
        {"head_dropout": 0.31},
        {"augmentation": "crop-flip"},
        {"epochs": 11},
        {"batch_size": 127},
        {"lr": math.nextafter(1e-3, 1)},
        {"weight_decay": 0.01},
        {"schedule": "cosine"},
        {"seed": 1},
        {"dataset": "sample"},
        {"split": "test"},
        {"split": "folds", "folds": 5},
        {"precision": "bf16"},
        {"train_images": 12_000},
        *({"placement": p} for p in HOLDS if p != "bn-dropout"),
    ],
    ids=str,
)
def test_another_network_or_training_has_another_key(change: dict[str, Any]):
    assert RunConfig().derive(**change).key != RunConfig().key


def test_keys_are_as_in_every_version_before():
    assert (RunConfig().key, experiment(8, **FIRST_8).key) == ("d60df9aaf2d7d3f1", "beee2fa491ac4423")
