from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeper.core.config import Placement, RunConfig, check_name
from sweeper.core.errors import ConfigError
from sweeper.core.experiments import EXPERIMENT_TITLES, EXPERIMENTS, experiment

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


# of the eight experiments in 0.1.0, which called the split `test` otherwise
FORMER_KEYS = {
    1: "232bc6e29ce07f57", 2: "55491190a80f7e6b", 3: "c583fdf0bd081f47", 4: "0ba0796d3a81acc0",
    5: "4757fb12ca8e3e02", 6: "859bd5c5824a2675", 7: "24dd852e89a97fba", 8: "beee2fa491ac4423",
}  # fmt: skip


def refusal(**fields: Any) -> str:
    """The message with which `fields` are refused; always one line."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.create(**fields)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- bad values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *[
            (field, value, allowed)
            for field in ("conv_dropout", "head_dropout")
            for value, allowed in [
                (-0.1, "greater than or equal to 0"),
                (1.0, "less than 1"),
                (1.1, "less than 1"),
                (math.nan, "finite number"),
                ("nan", "finite number"),
                ("x", "valid number"),
            ]
        ],
        ("batch_size", 0, "greater than or equal to 1"),
        ("batch_size", -1, "greater than or equal to 1"),
        ("batch_size", 1.5, "valid integer"),
        ("batch_size", "1.5", "valid integer"),
        ("batch_size", "a", "valid integer"),
        ("batch_size", 60_001, "less than or equal to 60000"),
        ("epochs", 0, "greater than or equal to 1"),
        ("epochs", -1, "greater than or equal to 1"),
        ("epochs", "1e3", "valid integer"),
        ("lr", 0, "greater than 0"),
        ("lr", -1, "greater than 0"),
        ("lr", math.nan, "finite number"),
        ("lr", math.inf, "finite number"),
        ("lr", "inf", "finite number"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("seed", -1, "greater than or equal to 0"),
        ("train_images", -1, "greater than or equal to 0"),
        ("train_images", 60_001, "less than or equal to 60000"),
        ("train_images", "some", "valid integer"),
        ("experiment", 9, "less than or equal to 8"),
        ("model", "huge", "'small', 'medium' or 'large'"),
        ("placement", "bn-bn", ", ".join(f"'{p}'" for p in list(Placement)[:-1])),
        ("device", "foo", "auto, cpu, cuda or cuda:N"),
        ("precision", "fp64", "'fp32' or 'bf16'"),
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


@pytest.mark.parametrize("placement", [p for p, (_, _, batch_norm) in HOLDS.items() if batch_norm])
def test_batch_size_1_is_refused_where_there_is_batch_norm(placement: str):
    message = refusal(batch_size=1, placement=placement)
    assert f"batch_size=1 with placement={placement}" in message
    assert "2 or more" in message


@pytest.mark.parametrize("placement", ["none", "dropout"])
def test_batch_size_1_is_allowed_without_batch_norm(placement: str):
    assert RunConfig.create(batch_size=1, placement=placement).batch_size == 1


@pytest.mark.parametrize("folds", [0, 1])
def test_cross_validation_needs_two_folds(folds: int):
    assert f"folds={folds}: cross-validation needs 2 or more" in refusal(split="folds", folds=folds)


def test_folds_without_cross_validation_are_refused():
    assert "folds=5: allowed with split=folds only" in refusal(split="holdout", folds=5)


def test_a_batch_larger_than_the_images_to_train_on_is_refused():
    assert RunConfig(train_images=128).train_images == 128
    assert "batch_size=128: larger than train_images=127" in refusal(train_images=127)


def test_an_unknown_field_is_refused_and_the_fields_are_listed():
    message = refusal(droput=0.1)
    assert "'droput'" in message
    assert all(name in message for name in RunConfig.model_fields)


def test_all_bad_fields_are_in_one_message():
    bad = {"conv_dropout": 1.1, "head_dropout": "x", "batch_size": 0, "epochs": -1, "lr": math.inf, "nope": 1}
    message = refusal(**bad)
    assert [name for name in bad if name not in message.split(": the fields are")[0]] == []


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0, "folds": 3},
        {"lr": -1, "batch_size": 1, "placement": "bn"},
        {"split": "folds", "folds": 1, "batch_size": 1, "placement": "bn"},
        {"epochs": 0, "train_images": 100, "batch_size": 101},
    ],
    ids=lambda bad: "+".join(bad),
)
def test_fields_that_do_not_fit_together_are_in_the_same_message(bad: dict[str, Any]):
    message = refusal(**bad)
    wrong = [name for name in bad if name not in ("placement", "split")]
    assert [name for name in wrong if f"{name}=" not in message] == []


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


def test_derive_validates_again():
    with pytest.raises(ConfigError, match="head_dropout"):
        RunConfig().derive(head_dropout=1.0)


@pytest.mark.parametrize("name", ["a", "9", "bn-dropout_v1.2", "x" * 100])
def test_a_study_may_have_a_plain_name(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 101,
        "../up",
        "a/b",
        ".hidden",
        "-option",
        "two words",
        "tab\t",
        "line\n",
        "nul\0",
        "<b>bold</b>",
        "näme",
    ],
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
    with pytest.raises(ConfigError, match="choose another"):
        check_name(name)
    assert check_name(f"my-{name}") == f"my-{name}"


# --- one immutable value ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", RunConfig.model_fields)
def test_a_configuration_is_frozen(field: str):
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, getattr(config, field))


def test_derive_changes_the_named_field_of_a_copy_only():
    config = experiment(6)
    derived = config.derive(seed=7)
    assert derived.seed == 7
    assert config.seed == 0
    assert derived.derive(seed=0) == config


def test_the_table_of_these_tests_has_every_placement():
    assert {p.value for p in Placement} == set(HOLDS)


@pytest.mark.parametrize("placement", HOLDS)
def test_a_rate_that_the_placement_lacks_is_0(placement: str):
    in_conv, in_head, _ = HOLDS[placement]
    config = RunConfig(placement=Placement(placement), conv_dropout=0.25, head_dropout=0.5)
    assert config.conv_dropout == (0.25 if in_conv else 0.0)
    assert config.head_dropout == (0.5 if in_head else 0.0)


@pytest.mark.parametrize("placement", HOLDS)
def test_a_placement_knows_what_it_holds(placement: str):
    p = Placement(placement)
    assert (p.has_conv_dropout, p.has_head_dropout, p.has_batch_norm) == HOLDS[placement]


rates = st.floats(0, 1, exclude_max=True)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    placement = draw(st.sampled_from(Placement))
    split = draw(st.sampled_from(["test", "holdout", "folds"]))
    return RunConfig.create(
        experiment=draw(st.integers(0, 8)),
        model=draw(st.sampled_from(["small", "medium", "large"])),
        placement=placement,
        conv_dropout=draw(rates),
        head_dropout=draw(rates),
        augmentation=draw(st.sampled_from(["none", "crop-flip", "crop-flip-erase"])),
        epochs=draw(st.integers(1, 10_000)),
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
    assert set(params) == set(RunConfig.model_fields)
    assert all(type(value) is str for value in params.values())
    rebuilt = RunConfig.from_params(params | {"a parameter of someone else": "1"})
    assert rebuilt == config
    assert rebuilt.key == config.key


def test_parameters_recorded_before_there_was_a_number_of_training_images_rebuild_their_configuration():
    params = {name: value for name, value in experiment(6).to_params().items() if name != "train_images"}
    assert RunConfig.from_params(params) == experiment(6)


# --- the key ---------------------------------------------------------------------------------------


Placed = tuple[str, float, float]  # placement, rate among the convolutions, rate in the head


def placed(placement: str, conv: float, head: float) -> RunConfig:
    return RunConfig.create(placement=placement, conv_dropout=conv, head_dropout=head)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("dropout", 0, 0), ("none", 0, 0)),
        (("bn-dropout", 0, 0), ("bn", 0, 0)),
        (("dropout-bn", 0, 0), ("bn", 0, 0)),
        (("bn-head-dropout", 0, 0), ("bn", 0, 0)),
        (("bn-dropout", 0, 0.3), ("bn-head-dropout", 0, 0.3)),
        (("dropout-bn", 0, 0.3), ("bn-head-dropout", 0, 0.3)),
        (("bn", 0.2, 0.3), ("bn", 0, 0)),
        (("bn-dropout", -0.0, 0.3), ("bn-dropout", 0.0, 0.3)),
    ],
    ids=str,
)
def test_the_same_network_has_the_same_key(one: Placed, other: Placed):
    assert placed(*one).key == placed(*other).key


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
    assert (RunConfig().key, experiment(8).key) == ("d60df9aaf2d7d3f1", "beee2fa491ac4423")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ic", 0, 0), ("bn", 0, 0)),  # BatchNorm before the layers is not after them
        (("dropout", 0.1, 0), ("none", 0, 0)),
        (("dropout", 0, 0.3), ("none", 0, 0)),
        (("bn-dropout", 0.1, 0), ("bn", 0, 0)),
        (("dropout", 0, 0.3), ("bn-head-dropout", 0, 0.3)),
        (("bn-dropout", 0.1, 0.3), ("dropout-bn", 0.1, 0.3)),
    ],
    ids=str,
)
def test_networks_that_differ_in_placement_have_different_keys(one: Placed, other: Placed):
    assert placed(*one).key != placed(*other).key


# --- the study's eight experiments -------------------------------------------------------------------

# The study's table: model, BatchNorm, Dropout, augmentation, scheduler (None: the table leaves it open).
STUDY = {
    1: ("small", False, False, False, False),
    2: ("medium", False, False, False, False),
    3: ("medium", False, False, True, None),
    4: ("medium", True, False, False, True),
    5: ("medium", False, True, False, None),
    6: ("medium", True, True, False, None),
    7: ("medium", True, True, True, None),
    8: ("large", True, True, True, None),
}


@pytest.mark.parametrize("number", STUDY)
def test_an_experiment_is_as_in_the_studys_table(number: int):
    config = experiment(number)
    model, batch_norm, dropout, augmentation, scheduler = STUDY[number]
    assert config.model == model
    assert config.placement.has_batch_norm is batch_norm
    assert (config.conv_dropout > 0) is dropout  # the study has it after convolutions and in the head
    assert (config.head_dropout > 0) is dropout
    assert (config.augmentation != "none") is augmentation
    assert scheduler is None or (config.schedule != "constant") is scheduler


@pytest.mark.parametrize("number", STUDY)
def test_an_experiment_follows_the_studys_protocol(number: int):
    config = experiment(number)
    assert config.experiment == number
    assert (config.split, config.dataset) == ("test", "fashion-mnist")


def test_there_are_eight_experiments_each_with_a_title():
    assert set(EXPERIMENTS) == set(EXPERIMENT_TITLES) == set(range(1, 9))


def test_experiment_2_has_no_l2():
    assert experiment(2).weight_decay == 0


@pytest.mark.parametrize("number", [6, 7, 8])
def test_batch_norm_stands_before_dropout_as_the_study_advises(number: int):
    assert experiment(number).placement is Placement.BN_DROPOUT


def test_the_former_name_of_the_split_test_is_accepted_and_stays_in_the_key():
    new, former = experiment(6, split="test"), experiment(6, split="blog")
    assert new == former == RunConfig.from_params(new.to_params() | {"split": "blog"})
    assert new.to_params()["split"] == "test"
    assert new.key == FORMER_KEYS[6]


@pytest.mark.parametrize("number", EXPERIMENTS)
def test_the_key_of_an_experiment_is_that_of_0_1_0(number: int):
    assert experiment(number).key == FORMER_KEYS[number]


def test_fields_replace_those_of_an_experiment():
    assert experiment(6, epochs=1, seed=3).to_params() == experiment(6).to_params() | {"epochs": "1", "seed": "3"}


def test_a_whole_number_written_as_a_decimal_is_no_obstacle_to_an_error_message():
    assert "lr='x'" in refusal(lr="x", folds="0.0", batch_size="64.0")
