"""Dimensions of the network in a search space: its arguments, its placements, and the schedule of its Dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.core.config import LAYERED, Placement, RunConfig
from sweeper.core.errors import SpaceError
from sweeper.study.known import checked, known_experiments
from sweeper.study.samplers import make_sampler
from sweeper.study.space import Choice, Range, Space, cells, default_space
from sweeper.study.space_file import read_space
from sweeper.study.study import StudySettings

OWN = RunConfig.create(model="/folder/net.py:build", model_sha256="5" * 64, **{"model.depth": 2})
WIDTHS = Space({"placement": Choice(("bn", "bn-dropout")), "model.width": Choice((16, 32)),
                "model.bias": Choice((False, True)), "model.norm": Range(0.1, 10, log=True)})  # fmt: skip
SAMPLERS = ("gp", "tpe", "qmc", "random")


def read(folder: Path, text: str) -> Space:
    (folder / "space.yaml").write_text(text)
    return read_space(folder / "space.yaml")


# --- arguments of a factory --------------------------------------------------------------------------


def test_a_file_names_arguments_as_lists_of_one_kind_or_ranges(tmp_path: Path):
    text = "placement: [bn, bn-dropout]\nmodel.width: [16, 32]\nmodel.bias: [false, true]\n" \
           "model.norm: {low: 0.1, high: 10, log: true}\nmodel.act: [relu, gelu]\n"  # fmt: skip
    space = read(tmp_path, text)
    assert space == Space({**WIDTHS.dimensions, "model.act": Choice(("relu", "gelu"))})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.: [1]", "unknown field 'model.'; the fields are placement,"),
        ("model.a b: [1]", "and model.NAME"),
        ("model.width: 16", "model.width: neither a list of values nor {low: "),
        ("model.width: []", "model.width: an empty choice"),
        ("model.width: [16, 16]", "model.width: a choice is listed twice"),
        ("model.width: [16, wide]", "model.width: 'wide' is a string in YAML"),
        ("model.bias: [true, 1]", "model.bias: true and false cannot be mixed with other values"),
        ("model.width: {low: 32, high: 16}", "low is above high"),
        ("model.width: [[16]]", "model.width: [16]"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(tmp_path: Path, text: str, says: str):
    with pytest.raises(SpaceError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_proposes_arguments_beside_the_fields(sampler: str):
    study = optuna.create_study(direction="maximize")
    seen = set()
    for number in range(24):
        study.sampler = make_sampler(sampler, 0, number, WIDTHS, OWN.placement)
        trial = study.ask()
        config = WIDTHS.suggest(OWN, trial)
        assert WIDTHS.params_of(config) == trial.params
        arguments: dict[str, Any] = dict(config.model_args)
        assert arguments["depth"] == 2  # of the base
        assert type(arguments["width"]) is int
        assert type(arguments["bias"]) is bool
        assert 0.1 <= arguments["norm"] <= 10
        seen.add((arguments["width"], arguments["bias"], config.placement))
        study.tell(trial, 0.5 + arguments["width"] / 100)
    assert len(seen) == 8


def test_a_study_is_read_with_the_arguments_that_it_was_made_with():
    settings = StudySettings(OWN, WIDTHS, "0" * 64, "gp")
    assert StudySettings.read(settings.describe()) == settings
    assert settings.describe()["space.model.width"] == [16, 32]


def test_a_grid_has_a_cell_for_each_value_of_an_argument():
    space = Space({"placement": Choice(("bn", "bn-head-dropout")), "head_dropout": Choice((0.2, 0.4)),
                   "model.width": Choice((16, 32))})  # fmt: skip
    assert len(cells(space, Placement.BN)) == (1 + 2) * 2


def test_each_network_at_an_extreme_is_named_once():
    space = Space({"placement": Choice(("bn", "ic")), "model.width": Choice((8, 16)), "batch_size": Choice((32, 64)),
                   "head_dropout": Range(0.1, 0.2)})  # fmt: skip
    named = [(config.placement.value, dict(config.model_args).get("width", 0)) for config in space.networks(OWN)]
    assert sorted(named) == [("bn", 0), ("bn-dropout", 0), ("bn-dropout", 8), ("bn-dropout", 16), ("ic", 0)]


def test_our_own_networks_take_no_arguments():
    with pytest.raises(SpaceError, match=r"model\.width=16: model medium takes no arguments"):
        Space({"model.width": Choice((16,))}).validate(RunConfig())


def test_a_factory_is_named_by_the_option_not_by_the_space():
    with pytest.raises(SpaceError, match=r"model='net\.py:build': use small, medium, large, resnet20; name a factory"):
        Space({"model": Choice(("small", "net.py:build"))}).validate(RunConfig())


def test_known_configurations_may_give_arguments():
    row = {"placement": "bn", "model.width": 32.0, "model.bias": True}
    assert checked("row 1", row, WIDTHS, OWN).params == {"placement": "bn", "model.width": 32, "model.bias": True}
    with pytest.raises(SpaceError, match=r"'model\.width=24', which is not in the search space; use one of 16, 32"):
        checked("row 1", {"model.width": 24}, WIDTHS, OWN)
    inside, _ = known_experiments(Space({"placement": Choice(("bn",)), "model.width": Choice((16,))}))
    assert [known.params for known in inside] == [{"placement": "bn"}]


# --- placements --------------------------------------------------------------------------------------


def test_the_default_space_has_the_placements_of_the_network_and_their_rates_only():
    assert default_space(LAYERED).describe()["placement"] == [p.value for p in LAYERED]
    assert list(default_space((Placement.OWN,)).describe()) == ["batch_size"]
    assert list(default_space((Placement.NONE, Placement.BN)).describe()) == ["placement", "batch_size"]
    few = default_space((Placement.BN, Placement.BN_POOL_DROPOUT))
    assert list(few.describe()) == ["placement", "head_dropout", "batch_size"]


def test_a_plain_network_refuses_the_placements_of_residual_blocks():
    space = Space({"placement": Choice(("bn", "bn-dropout-last")), "model": Choice(("resnet20", "small"))})
    with pytest.raises(
        SpaceError, match="placement=bn-dropout-last: model small has no residual blocks; use none, bn,"
    ):
        space.validate(RunConfig())
    only = Space({"placement": Choice(("bn", "bn-dropout-last"))})
    assert only.validate(RunConfig(model="resnet20")) is only
    with pytest.raises(SpaceError, match="model medium has no residual blocks"):
        only.validate(RunConfig())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_proposes_every_placement_of_a_residual_network_with_its_rates(sampler: str):
    study, space, base = optuna.create_study(), default_space(LAYERED), RunConfig(model="resnet20")
    placements = set()
    for number in range(64):
        study.sampler = make_sampler(sampler, 0, number, space, base.placement)
        trial = study.ask()
        config = space.suggest(base, trial)
        rates = {name for name in ("conv_dropout", "head_dropout") if config.placement.uses(name)}
        assert set(trial.params) == {"placement", "batch_size"} | rates
        placements.add(config.placement)
        study.tell(trial, 0.5)
    assert placements == set(LAYERED)


# --- the schedule of Dropout -------------------------------------------------------------------------

SCHEDULES = Space({"placement": Choice(("bn", "bn-dropout")),
                   "dropout_schedule": Choice(("constant", "early", "late"))})  # fmt: skip
SWITCHED = RunConfig(dropout_schedule="early", dropout_switch=3)


def test_the_schedule_is_asked_where_there_is_dropout_and_switches_as_the_base_does():
    found = set()
    for answers in ({"placement": "bn"}, *({"placement": "bn-dropout", "dropout_schedule": name}
                                           for name in ("constant", "early", "late"))):  # fmt: skip
        config = SCHEDULES.suggest(SWITCHED, optuna.trial.FixedTrial(answers))
        assert SCHEDULES.params_of(config) == answers
        found.add((config.placement.value, config.dropout_schedule, config.dropout_switch))
    assert found == {("bn", "constant", 0), ("bn-dropout", "constant", 0), ("bn-dropout", "early", 3),
                     ("bn-dropout", "late", 3)}  # fmt: skip
    assert len(cells(SCHEDULES, SWITCHED.placement)) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_proposes_a_schedule_where_there_is_dropout(sampler: str):
    study = optuna.create_study(direction="maximize")
    for number in range(20):
        study.sampler = make_sampler(sampler, 0, number, SCHEDULES, SWITCHED.placement)
        trial = study.ask()
        SCHEDULES.suggest(SWITCHED, trial)
        assert ("dropout_schedule" in trial.params) == (trial.params["placement"] == "bn-dropout")
        study.tell(trial, 0.5)


def test_a_schedule_without_a_switch_or_without_dropout_is_refused():
    with pytest.raises(SpaceError, match="dropout_switch=0: dropout_schedule=early needs 1 to epochs - 1"):
        SCHEDULES.validate(RunConfig())
    assert SCHEDULES.validate(SWITCHED) is SCHEDULES
    without = Space({"placement": Choice(("none", "bn")), "dropout_schedule": Choice(("constant", "early"))})
    with pytest.raises(SpaceError, match=r"dropout_schedule: placement none, bn has no Dropout\. Add one that has"):
        without.validate(SWITCHED)


def test_a_known_configuration_may_give_a_schedule_where_there_is_dropout():
    row = {"placement": "bn", "dropout_schedule": "constant"}
    assert checked("row 1", row, SCHEDULES, SWITCHED).params == {"placement": "bn"}
    with pytest.raises(SpaceError, match=r"placement bn has no Dropout in its network\. Leave dropout_schedule out"):
        checked("row 1", row | {"dropout_schedule": "late"}, SCHEDULES, SWITCHED)
