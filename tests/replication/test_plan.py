"""The plan of a reproduction: which runs, in which order, and how long they take."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.data import fashion
from sweeper.data.fashion import SAMPLE
from sweeper.replication.article import Reproduction
from sweeper.replication.articles.learnopencv import ARMS, PROTOCOLS
from sweeper.replication.plan import Options, cost, make_plan, order
from sweeper.replication.reproduce import choose_machine, dry_run, run_name
from tests.replication.drawn import FULL, QUICK, QUICK_6
from tests.replication.place import TINY, Place


def test_all_of_a_protocol_is_planned_with_its_seeds_and_names_fit_into_mlflow(place: Place):
    chosen = choose_machine(place.environment, "sample", "cpu", "fp32")
    everything = make_plan(place.environment, chosen, Options(QUICK))
    assert sorted((run.arm, run.config.seed) for run in everything) == sorted((arm, s) for arm in ARMS for s in (0, 1))
    names = {run_name(run.arm, run.config.seed) for run in everything}
    assert (len(names), max(map(len, names))) == (len(everything), 18)


def test_an_arm_may_have_fewer_seeds_but_not_than_are_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PROTOCOLS, "quick", replace(TINY, seeds=3, at_most={"exp1": 2}))
    for seeds, of_the_first in ((None, 2), (3, 3)):
        plan = place.reproduce(1, 2, seeds=seeds, command=dry_run)["plan"]
        assert [sum(run["arm"] == arm for run in plan) for arm in ("exp1", "exp2")] == [of_the_first, 3]


@pytest.mark.parametrize(("manifest", "images"), [(SAMPLE, 0), (fashion.FULL, 12_000)], ids=["sample", "full"])
def test_a_data_set_with_fewer_images_than_the_protocol_wants_is_used_whole(
    place: Place, monkeypatch: pytest.MonkeyPatch, manifest: Any, images: int
):
    monkeypatch.undo()
    chosen = SimpleNamespace(source=SimpleNamespace(spec=manifest.spec), config=RunConfig())
    planned = make_plan(place.environment, chosen, Options(QUICK))
    assert {run.config.train_images for run in planned} == {images}


# --- order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [FULL, QUICK, QUICK_6], ids=PROTOCOLS)
def test_each_seed_has_every_arm_once_before_the_next_begins(protocol: Reproduction):
    arms = protocol.select()
    planned = list(order(protocol, arms, 5))
    assert [seed for _, seed in planned] == [seed for seed in range(5) for _ in arms]
    for seed in range(5):
        assert sorted(arm for arm, s in planned if s == seed) == sorted(arms)


def test_the_large_networks_come_first_and_the_others_begin_elsewhere_with_each_seed():
    arms = FULL.select()
    of_seed = [[arm for arm, s in order(FULL, arms, 5) if s == seed] for seed in range(5)]
    assert {tuple(sorted(names[:4])) for names in of_seed} == {("exp8", "exp8-30", "large-both", "large-none")}
    assert len({names[4] for names in of_seed}) == 5
    following = {names[names.index("exp4") + 1] for names in of_seed if names[-1] != "exp4"}
    assert following == {"exp5"}  # compared arms stay together


@pytest.mark.parametrize("number", range(9))
def test_any_number_of_arms_is_rotated(number: int):
    arms = [name for name in FULL.select() if not name.startswith(("exp8", "large"))][:number]
    firsts = [next(arm for arm, s in order(FULL, arms, number) if s == seed) for seed in range(number)]
    assert sorted(firsts) == sorted(arms)


# --- how long it takes ---------------------------------------------------------------------------------------


def test_a_run_costs_by_its_network_images_and_epochs():
    one = cost(QUICK.config("exp6", 0), fashion.FULL.spec)
    assert cost(QUICK.config("exp6", 0, epochs=60), fashion.FULL.spec) == 2 * one
    assert cost(QUICK.config("exp6", 0, model="large"), fashion.FULL.spec) > 9 * one
    assert cost(QUICK.config("exp1", 0), fashion.FULL.spec) < one < cost(FULL.config("exp6", 0), fashion.FULL.spec)


def test_a_dry_run_says_how_much_is_recorded_and_creates_nothing(place: Place):
    place.reproduce(1, seeds=1)
    files = place.files()
    result = place.reproduce(1, 2, seeds=2, command=dry_run)
    assert (result["runs"], result["recorded"]) == (4, 1)
    assert result["seconds"] > 0
    assert place.files() == files
    assert "exp1               1/2 seeds recorded   1 epochs  small CNN, plain" in place.said
    assert place.said[-1].startswith("2 arms, 4 runs, 3 to train: about ")
    assert place.said[-1].endswith("(at the pace of the 1 recorded run)")
