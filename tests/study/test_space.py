from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.core.config import RunConfig, placements_of
from sweeper.core.errors import SpaceError
from sweeper.study.space import SEARCHABLE, Choice, Range, Space, default_space

RATES = {"conv_dropout", "head_dropout"}

# placement: the rates it has
ASKS = {
    "none": set(),
    "bn": set(),
    "dropout": RATES,
    "bn-dropout": RATES,
    "dropout-bn": RATES,
    "bn-head-dropout": {"head_dropout"},
    "ic": RATES,
}


@dataclass
class Recorder:
    """A trial that answers with the values it was given, else with the first or lowest, and remembers the questions."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    logarithmic: set[str] = field(default_factory=set)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        return self.answers.get(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append(name)
        self.logarithmic |= {name} if log else set()
        return float(self.answers.get(name, low))


def one_line(caught: pytest.ExceptionInfo[SpaceError]) -> str:
    message = str(caught.value)
    assert len(message.split("\n")) == 1
    return message


# --- asking --------------------------------------------------------------------------------------


def test_the_default_space_offers_each_of_the_seven_placements_once() -> None:
    offered = default_space().describe()["placement"]
    assert sorted(offered) == sorted(p.value for p in placements_of("medium")) == sorted(ASKS)


@pytest.mark.parametrize("placement", ASKS)
def test_rates_are_asked_only_where_the_placement_has_them(placement: str) -> None:
    trial = Recorder({"placement": placement})
    default_space().suggest(RunConfig(), trial)
    assert RATES & set(trial.asked) == ASKS[placement]


@pytest.mark.parametrize("placement", ASKS)
def test_a_base_that_fixes_the_placement_decides_which_rates_are_asked(placement: str) -> None:
    trial = Recorder()
    Space({rate: Range(0.1, 0.2) for rate in RATES}).suggest(RunConfig(placement=placement), trial)
    assert set(trial.asked) == ASKS[placement]


@pytest.mark.parametrize("placement", ASKS)
def test_the_answers_become_the_configuration(placement: str) -> None:
    answers = {"placement": placement, "conv_dropout": 0.2, "head_dropout": 0.5, "batch_size": 256}
    config = default_space().suggest(RunConfig(epochs=3, seed=7), optuna.trial.FixedTrial(answers))
    expected = RunConfig(epochs=3, seed=7, placement=placement, conv_dropout=0.2, head_dropout=0.5, batch_size=256)
    assert config == expected
    assert {rate for rate in RATES if getattr(config, rate) > 0} == ASKS[placement]


def test_the_placement_is_asked_before_the_rates_that_depend_on_it() -> None:
    trial = Recorder({"placement": "bn-dropout"})
    dimensions = default_space().dimensions
    Space(dict(reversed(dimensions.items()))).suggest(RunConfig(), trial)
    assert trial.asked == [name for name in SEARCHABLE if name in dimensions]


def test_a_space_without_rates_gives_every_placement_that_has_dropout_its_default_rates() -> None:
    space = Space({"placement": Choice(("ic",))})
    config = space.suggest(RunConfig(placement="none"), Recorder())
    assert (config.conv_dropout, config.head_dropout) == (0.1, 0.3)


def test_rates_of_the_base_are_kept_where_the_space_does_not_vary_them() -> None:
    space = Space({"placement": Choice(("ic",)), "head_dropout": Range(0.2, 0.4)})
    config = space.suggest(RunConfig(conv_dropout=0.25), Recorder())
    assert (config.conv_dropout, config.head_dropout) == (0.25, 0.2)


def test_only_logarithmic_ranges_are_sampled_in_the_logarithm() -> None:
    trial = Recorder()
    Space({"lr": Range(1e-4, 1e-2, log=True), "weight_decay": Range(1e-4, 1e-2)}).suggest(RunConfig(), trial)
    assert trial.logarithmic == {"lr"}


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_whatever_is_sampled_from_the_default_space_is_a_valid_run_within_it(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    config = default_space().suggest(RunConfig(), study.ask())
    assert config.batch_size in (32, 64, 128, 256, 512)
    assert config.conv_dropout == 0 or 0.02 <= config.conv_dropout <= 0.4
    assert config.head_dropout == 0 or 0.05 <= config.head_dropout <= 0.6


def test_a_space_is_described_in_the_same_order_however_it_is_written() -> None:
    dimensions = default_space().dimensions
    assert list(Space(dict(reversed(dimensions.items()))).describe()) == list(default_space().describe())


# --- values that no run can have -----------------------------------------------------------------


def test_the_default_space_is_valid_for_every_base() -> None:
    for placement in placements_of("medium"):
        assert default_space().validate(RunConfig(placement=placement)) == default_space()


@pytest.mark.parametrize(
    ("name", "dimension", "said"),
    [
        ("conv_dropout", Range(0.0, 1.0), "conv_dropout='1.0'"),
        ("head_dropout", Range(-0.1, 0.5), "head_dropout='-0.1'"),
        ("head_dropout", Choice((0.5, 1.0)), "head_dropout='1.0'"),
        ("batch_size", Choice((64, 0)), "batch_size='0'"),
        ("batch_size", Choice((64.5,)), "batch_size='64.5'"),
        ("lr", Range(0.0, 0.1), "lr='0.0'"),
        ("lr", Choice((float("nan"),)), "lr='nan'"),
        ("lr", Choice((float("inf"),)), "lr='inf'"),
        ("weight_decay", Range(-1.0, 0.0), "weight_decay='-1.0'"),
        ("placement", Choice(("bn", "batchnorm")), "placement='batchnorm'"),
        ("model", Choice(("huge",)), "model='huge'"),
        ("schedule", Choice(("linear",)), "schedule='linear'"),
        ("augmentation", Choice(("mixup",)), "augmentation='mixup'"),
    ],
)
@pytest.mark.parametrize("base", ["none", "bn-dropout"])
def test_a_value_that_no_run_can_have_is_refused_in_one_line(
    base: str, name: str, dimension: Choice | Range, said: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        Space({name: dimension}).validate(RunConfig(placement=base))
    assert said in one_line(caught)


def test_batches_of_one_are_refused_only_with_batch_norm() -> None:
    space = Space({"batch_size": Choice((1, 64))})
    assert space.validate(RunConfig(placement="dropout")) is space
    with pytest.raises(SpaceError) as caught:
        space.validate(RunConfig(placement="bn"))
    assert "BatchNorm needs 2" in one_line(caught)


def test_two_values_that_no_run_can_have_together_are_refused() -> None:
    space = Space({"placement": Choice(("none", "bn")), "batch_size": Choice((1, 64))})
    with pytest.raises(SpaceError):
        space.validate(RunConfig(placement="none"))


def test_rates_without_batch_norm_are_valid_for_batches_of_one() -> None:
    Space({"conv_dropout": Range(0.0, 0.5)}).validate(RunConfig(placement="dropout", batch_size=1))
