"""The arms and protocols of the reproduction, as data."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.core.errors import ConfigError
from sweeper.core.experiments import EXPERIMENT_TITLES, FIRST_8, experiment
from sweeper.replication.articles.learnopencv import ARMS, PROTOCOLS, parse_experiments
from tests.replication.drawn import FULL, QUICK, QUICK_6

# arm: the experiment it is compared with, and how it differs from it
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "exp1-long": (1, {"epochs": 40}),
    "none-cosine": (2, {"schedule": "cosine"}),
    "bn-constant": (4, {"schedule": "constant"}),
    **{name: (6, {"placement": name}) for name in ("dropout-bn", "ic", "bn-head-dropout")},
    "none-aug": (7, {"placement": "none"}),
    "bn-aug": (7, {"placement": "bn"}),
    "dropout-aug": (7, {"placement": "dropout"}),
    **{
        f"small-{name}{suffix}": (number, {"model": "small", "placement": placement})
        for suffix, number in (("", 6), ("-aug", 7))
        for name, placement in (("none", "none"), ("bn", "bn"), ("dropout", "dropout"), ("both", "bn-dropout"))
    },
    "exp8-30": (8, FIRST_8),
    "large-none": (6, {"model": "large", "placement": "none"}),
    "large-both": (6, {"model": "large"}),
    "both-low": (6, {"conv_dropout": 0.05, "head_dropout": 0.15}),
    "both-high": (6, {"conv_dropout": 0.3, "head_dropout": 0.5}),
    "batch-32": (6, {"batch_size": 32}),
    "batch-512": (6, {"batch_size": 512}),
    **{f"none-lr-{lr}": (2, {"lr": float(lr)}) for lr in ("3e-3", "1e-2", "3e-2")},
    **{f"bn-lr-{lr}": (4, {"schedule": "constant", "lr": float(lr)}) for lr in ("3e-3", "1e-2", "3e-2")},
}


def test_the_arms_are_the_eight_experiments_and_the_variants_of_these_tests():
    assert set(ARMS) == {f"exp{n}" for n in EXPERIMENT_TITLES} | set(VARIANTS)
    assert all(arm.title and len(arm.title.splitlines()) == 1 for arm in ARMS.values())


@pytest.mark.parametrize("number", EXPERIMENT_TITLES)
def test_in_full_an_experiment_is_trained_as_in_the_article(number: int):
    assert FULL.config(f"exp{number}", seed=3) == experiment(number, seed=3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_experiment_in_what_its_name_says_and_nothing_else(name: str):
    number, changes = VARIANTS[name]
    assert FULL.config(name, seed=1) == experiment(number, seed=1, **changes)


def test_experiment_8_was_declared_anew_and_runs_of_the_first_declaration_are_read_where_they_lie():
    folders = [FULL.folder_of(name) for name in ("exp8", "exp8-30", "exp7")]
    assert folders == ["reproduce-full/exp8-45", "reproduce-full/exp8", "reproduce-full/exp7"]
    former = experiment(8, **FIRST_8 | {"epochs": 6, "train_images": 12_000, "seed": 2})
    assert (QUICK_6.config("exp8", 2), QUICK_6.folder_of("exp8")) == (former, "reproduce-quick/exp8")


@pytest.mark.parametrize("name", QUICK.select())
def test_the_quick_protocol_changes_the_number_of_images_and_epochs_alone(name: str):
    full, quick = FULL.config(name, 2), QUICK.config(name, 2)
    assert (quick.train_images, quick.epochs) == (12_000, 60 if name == "exp1-long" else 30)
    assert quick.derive(train_images=0, epochs=full.epochs) == full
    assert QUICK.config(name, 2, dataset="sample", train_images=0, precision="bf16") == quick.derive(
        dataset="sample", train_images=0, precision="bf16"
    )


def test_the_quick_protocol_has_every_arm_but_those_of_the_large_network():
    assert set(ARMS) - set(QUICK.select()) == {"exp8", "exp8-30", "large-none", "large-both"}
    assert set(FULL.select()) == set(ARMS)
    assert (QUICK.protocol.seeds, QUICK.protocol.at_most) == (5, {})


def test_the_first_quick_protocol_is_trained_and_kept_as_0_1_did():
    assert set(QUICK.select()) | {"exp8"} == set(QUICK_6.select())
    assert (QUICK_6.folder, QUICK_6.protocol.seeds, QUICK_6.protocol.at_most) == ("reproduce-quick", 5, {"exp8": 2})
    for name in QUICK.select():
        longer = QUICK.config(name, 2)
        assert QUICK_6.config(name, 2) == longer.derive(epochs=longer.epochs // 5)


def test_every_arm_is_trained_on_the_split_of_the_article():
    assert {FULL.config(name, 0).split for name in ARMS} == {"test"}


# --- which of them -----------------------------------------------------------------------------------------


def test_experiments_are_selected_with_or_without_their_variants():
    assert FULL.select((1, 2)) == [
        "exp2", "none-cosine", "none-lr-3e-3", "none-lr-1e-2", "none-lr-3e-2", "exp1", "exp1-long",
    ]  # fmt: skip
    assert FULL.select((2, 1), only_experiments=True) == ["exp2", "exp1"]
    assert sorted(QUICK_6.select(only_experiments=True)) == [f"exp{n}" for n in range(1, 9)]


@pytest.mark.parametrize("protocol", [FULL, QUICK, QUICK_6], ids=PROTOCOLS)
def test_no_two_arms_are_the_same_run(protocol: Any):
    assert len({protocol.config(name, 0).key for name in protocol.select()}) == len(protocol.select())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8", (8,)),
        ("1-8", tuple(range(1, 9))),
        ("3,1,3,2-3", (1, 2, 3)),
        (" 1 , 6 - 8 ", (1, 6, 7, 8)),
    ],
)
def test_numbers_of_experiments_are_read(text: str, numbers: tuple[int, ...]):
    assert parse_experiments(text) == numbers


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"), ("1,", "''"), ("0", "'0'"), ("1,6-9", "'6-9'"), ("8-6", "'8-6'"), ("-1", "'-1'"), ("1.5", "'1.5'"),
        ("12", "'12'"), ("1\n2", r"'1\n2'"), ("1-999999999", "'1-999999999'"), ("٣", "'٣'"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_an_experiment_is_refused_and_the_eight_are_listed(text: str, part: str):
    with pytest.raises(ConfigError) as caught:
        parse_experiments(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert f"{part} is neither an experiment nor a range" in message
    assert all(f"{n} {title}" in message for n, title in EXPERIMENT_TITLES.items())
