"""The ledger is tested as a test is: how often it is wrong where nothing is true, and how often it finds what is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from sweeper.replication.claims.claim import Claim
from sweeper.replication.claims.ledger import ALPHA, Judged, Runs, first_seeds, judge, look_times, seeds_needed, spent
from sweeper.replication.claims.measures import ACCURACY
from sweeper.replication.claims.questions import Table, above
from sweeper.replication.next_runs import steps
from sweeper.replication.runs import ArmRun, Machine
from sweeper.replication.statistics.base import Sample
from sweeper.replication.statistics.means import Contrast
from tests.replication.drawn import FULL, QUICK_6
from tests.support.worlds import ALMOST, NOTHING, World

CLAIMS = QUICK_6.claims()
ARMS = sorted({arm for claim in CLAIMS for arm in claim.question.arms})
LEVEL = ALPHA * spent(5) / (2 * len(CLAIMS))  # of the ledger, at five seeds


def verdicts(runs: Runs) -> list[Judged]:
    return judge(CLAIMS, runs, QUICK_6)


class Found(NamedTuple):
    """The verdicts on many ledgers of one world.

    Attributes:
        supported: the number of ledgers with a false `supported` at some look.
        contradicted: that with a false `contradicted`.
        wrong: that with either.
        verdicts: the ledgers in which a claim had a verdict at some look.
        rejected: those in which its p-value of the last look was at most 0.025, uncorrected.
    """

    supported: int
    contradicted: int
    wrong: int
    verdicts: Counter[tuple[int, str]]
    rejected: Counter[int]


def many(name: str, ledgers: int, seeds: Sequence[int], seed: int) -> Found:
    """Judge many ledgers of a world as their seeds come in: whole, at each of the numbers `seeds`."""
    random = np.random.default_rng(seed)
    world, right = WORLDS[name]
    wrong, found, rejected = Counter[str](), Counter[tuple[int, str]](), Counter[int]()
    for _ in range(ledgers):
        runs = world.draw(ARMS, max(seeds), random)
        at = [verdicts({arm: of_arm[:n] for arm, of_arm in runs.items()}) for n in seeds]
        reached = {(entry.claim.number, entry.verdict) for judged in at for entry in judged}
        found.update(reached)
        wrong.update(false := {verdict for _, verdict in reached - {right}} & {"supported", "contradicted"})
        wrong["either"] += bool(false)
        rejected.update(e.claim.number for e in at[-1] if e.looks and e.looks[-1].support <= ALPHA / 2)
    return Found(wrong["supported"], wrong["contradicted"], wrong["either"], found, rejected)


# --- how often it is wrong ----------------------------------------------------------------------------------

WORLDS: dict[str, tuple[World, tuple[int, str]]] = {  # with the one verdict that is right there
    "nothing": (NOTHING, (28, "contradicted")),
    "almost": (ALMOST, (28, "supported")),
}
LOOKS = (3, 5, 10, 20)
worlds = pytest.mark.parametrize("name", WORLDS)


@worlds
def test_whole_ledgers_without_an_effect_are_seldom_wrong_however_often_one_looks(name: str) -> None:
    """Without spending alpha over the looks, 8 to 11 of the 80 would be wrong."""
    found = many(name, 80, LOOKS, seed=5)
    assert found.wrong <= 4, found.verdicts
    untestable = {number for number, verdict in found.verdicts if verdict == "untestable"}
    assert untestable == {claim.number for claim in CLAIMS if claim.needs_full}


@pytest.mark.slow
@worlds
def test_three_hundred_ledgers_without_an_effect_over_four_looks(name: str) -> None:
    found = many(name, 300, LOOKS, seed=3)
    assert found.wrong <= 15, found.verdicts


@pytest.mark.slow
@worlds
def test_a_thousand_ledgers_without_an_effect(name: str) -> None:
    """At most 5 % have a false verdict; and without corrections, no claim has more than the size of its test."""
    found = many(name, 1000, (5,), seed=1)
    assert found.wrong <= 50, found.verdicts
    limit = 1000 * 0.025 + 4 * math.sqrt(1000 * 0.025 * 0.975)  # of 28 claims, none by chance
    assert all(count <= limit for number, count in found.rejected.items() if (number, "supported") != WORLDS[name][1])


@pytest.fixture(scope="module")
def paths() -> np.ndarray:
    """P-values of 1,000 claims without an effect, at each look as their seeds come in, up to 160 of them."""
    drawn = np.random.default_rng(0).standard_normal((1000, 2, 160))
    tests = [
        [Contrast("", "", 1, 0.0, {}, (1.0, -1.0), (Sample(a[:n]), Sample(b[:n]))) for n in look_times(160)]
        for a, b in drawn
    ]
    return np.array([[test.p.support for test in path] for path in tests])


def test_repeated_looks_without_an_effect(paths: np.ndarray) -> None:
    """A claim is found if any look supports it, so it does not matter if one stops at the first that does."""
    corrected = paths / [spent(seeds) for seeds in look_times(160)]
    assert (corrected <= ALPHA / 2).any(1).mean() <= ALPHA / 2 + 3 * math.sqrt(0.025 * 0.975 / 1000)


def test_looks_without_spending_would_find_too_much(paths: np.ndarray) -> None:
    assert (paths <= ALPHA / 2).any(1).mean() > 0.06


def test_the_shares_of_all_looks_sum_to_one() -> None:
    assert sum(spent(seeds) for seeds in look_times(10**9)) == pytest.approx(1)
    shares = {seeds: spent(seeds) for seeds in look_times(40)}
    assert shares == {3: 1 / 16, 5: 7 / 16, 10: 1 / 4, 20: 1 / 8, 40: 1 / 16}


def test_seeds_between_two_looks_change_no_p_value() -> None:
    runs = NOTHING.draw(ARMS, 7, np.random.default_rng(0))
    five = {arm: of_arm[:5] for arm, of_arm in runs.items()}
    assert [e.looks for e in verdicts(runs)] == [e.looks for e in verdicts(five)]


def test_a_missing_seed_ends_what_a_look_sees() -> None:
    runs = NOTHING.draw(["exp1"], 5, np.random.default_rng(0))["exp1"]
    assert [first_seeds(some) for some in (runs, runs[:2] + runs[3:], runs[1:])] == [5, 2, 0]


# --- how often it finds what is there -------------------------------------------------------------------------

# How a measure is shifted in a world: the name of its true value, and by how much it has to move for a unit.
LEVERS = {
    "accuracy": ("accuracy", 1),
    "NLL": ("nll", 1),
    "gap in NLL": ("gap", 1),
    "gap's slope": ("gap_slope", 1),
    "train NLL's slope": ("gap_slope", -1),
    "val NLL's slope": ("val_slope", 1),
    "train accuracy gained": ("gain", 1),
    "gap in accuracy": ("gap_accuracy", 1),
    "ECE": ("ece", 1),
    "confidence on errors": ("confidence", 1),
    "variance shift": ("shift", 1),
    "seconds an epoch with equal threads and hardware": ("log_seconds", 1),
}
PLANTED = (1, 3, 4, 5, 7, 9, 10, 11, 14, 16, 19, 20, 22, 23, 25, 26, 27)
BASES = {10: NOTHING.but("exp5", accuracy=0.945)}


def plant(claim: Claim, world: World, alpha: float, random: np.random.Generator) -> World:
    """The world with each of the claim's numbers twice as far beyond its bound as its interval reaches."""
    table = Table(World(NOTHING.truth).draw(claim.question.arms, 100, random))
    shifts: dict[tuple[str, str], float] = {}
    for test in claim.question.ask(table).tests():
        name, factor = LEVERS[test.quantity]
        arm = next(iter(test.counts))
        low, high = test.interval(0.16)  # one standard error of 100 seeds on each side
        size = (high - low) / 2 * math.sqrt(100 / 5) * 2 * stats.t.isf(alpha, 4)
        shift = factor * test.direction * size / test.weights[0]
        if claim.number == 25:  # the middle of three rates: its neighbours move
            arm, shift = ("both-low", -size) if "both-low" in test.label else ("both-high", size)
        shifts[arm, name] = max(shifts.get((arm, name), 0.0), shift, key=abs)
    for (arm, name), shift in shifts.items():
        world = world.but(arm, **{name: world.value(arm, name) + shift})
    return world


def share_found(number: int, world: World, random: np.random.Generator) -> float:
    """The share of 40 draws of five seeds in which a claim is supported at the level of the ledger."""
    question = CLAIMS[number - 1].question
    draws = [Table(world.draw(question.arms, 5, random)) for _ in range(40)]
    return float(np.mean([question.ask(draw).p.support <= LEVEL for draw in draws]))


@pytest.mark.parametrize("number", PLANTED)
def test_planted_effects_are_found(number: int) -> None:
    """Each part of a claim, in its own direction."""
    random = np.random.default_rng(number)
    world = plant(CLAIMS[number - 1], BASES.get(number, NOTHING), LEVEL, random)
    assert share_found(number, world, random) >= 0.8


def test_overfitting_is_found() -> None:
    assert share_found(6, NOTHING.but("exp4", dip=0.1), np.random.default_rng(0)) >= 0.8


@pytest.mark.parametrize("number", [8, 15])
def test_equivalence_is_found_where_the_number_is_well_inside(number: int) -> None:
    world = World(NOTHING.but("exp5", accuracy=0.945).but("exp7", gap_accuracy=0.005).truth, noise=0.2)
    assert share_found(number, world, np.random.default_rng(0)) >= 0.8


# --- verdicts -------------------------------------------------------------------------------------------------


def one(number: int, runs: Runs) -> Judged:
    return verdicts(runs)[number - 1]


def test_a_large_effect_is_supported_and_its_opposite_contradicted() -> None:
    random = np.random.default_rng(0)
    better = World().but("exp2", accuracy=0.97, nll=0.15).draw(["exp1", "exp2"], 5, random)
    worse = World().but("exp2", accuracy=0.92, nll=0.25).draw(["exp1", "exp2"], 5, random)
    assert one(3, better).verdict == "supported"
    assert one(3, worse).verdict == "contradicted"
    assert one(3, World().draw(["exp1", "exp2"], 5, random)).verdict == "inconclusive"
    half = World().but("exp2", accuracy=0.97).draw(["exp1", "exp2"], 5, random)
    assert one(3, half).verdict == "inconclusive"
    assert one(3, better).seeds_needed is None


def test_without_an_arm_a_claim_is_untestable_and_says_which() -> None:
    runs = World().draw(["exp1"], 5, np.random.default_rng(0))
    entry = one(3, runs)
    assert entry.verdict == "untestable"
    assert entry.why_not == "no run of exp2; run sweeper reproduce --protocol quick-6"


def test_a_measure_of_one_run_only_has_no_spread() -> None:
    runs = World().draw(["both-low", "exp6", "both-high"], 5, np.random.default_rng(0))
    runs["exp6"][1:] = [run._replace(final={}) for run in runs["exp6"][1:]]
    (judged,) = judge(CLAIMS[24:25], runs, QUICK_6)
    assert judged.verdict == "inconclusive"
    assert judged.reason == "fewer than two runs of exp6 have variance shift"


def test_what_only_the_full_protocol_can_judge_says_so() -> None:
    runs = World().but("exp8", accuracy=0.949).draw(ARMS, 5, np.random.default_rng(0))
    assert "60,000" in one(17, runs).why_not
    full = judge(FULL.claims()[16:17], runs, FULL)[0]
    assert full.verdict == "supported"
    part = {"exp8": [runs["exp8"][0], runs["exp8"][1]._replace(all_images=False), *runs["exp8"][2:]]}
    sample = judge(FULL.claims()[16:17], part, FULL)[0]  # as `--dataset auto` may have it
    assert sample.verdict == "untestable"
    assert "--dataset fashion-mnist" in sample.why_not
    low = World().but("exp8", accuracy=0.93).draw(ARMS, 5, np.random.default_rng(0))
    assert judge(FULL.claims()[16:17], low, FULL)[0].verdict == "contradicted"


def test_without_equal_accuracy_claim_7_has_no_verdict() -> None:
    names, random = ["exp4", "exp5"], np.random.default_rng(0)
    calm = World().but("exp5", nll=0.15, confidence=0.3, ece=0.001)
    assert one(7, calm.draw(names, 5, random)).verdict == "supported"
    assert one(7, calm.but("exp5", nll=0.15, accuracy=0.90).draw(names, 5, random)).verdict == "inconclusive"
    wild = World().but("exp5", nll=0.35, accuracy=0.90)
    assert one(7, wild.draw(names, 5, random)).verdict == "inconclusive"


def test_experiment_8_is_the_best_only_if_it_is_above_each_of_the_other_seven() -> None:
    random = np.random.default_rng(0)
    world = World().but("exp8", accuracy=0.96)
    eight = [f"exp{i}" for i in range(1, 9)]
    assert one(16, world.draw(eight, 5, random)).verdict == "supported"
    beaten = one(16, world.but("exp4", accuracy=0.99).draw(eight, 5, random))
    assert beaten.verdict == "contradicted"
    assert beaten.shown.label == "accuracy, exp8 - exp4 (the smallest of 7)"
    assert one(16, world.draw(["exp7", "exp8"], 5, random)).verdict == "untestable"


def test_a_claim_whose_premise_is_refuted_asks_for_no_seeds() -> None:
    calm = World().but("exp5", nll=0.24, confidence=0.58, ece=0.018)
    open_, closed = (
        world.draw(["exp4", "exp5"], 5, np.random.default_rng(0)) for world in (calm, calm.but("exp5", accuracy=0.90))
    )
    for runs, seeds in ((open_, True), (closed, False)):
        (judged,) = judge(CLAIMS[6:7], runs, QUICK_6)
        assert judged.verdict == "inconclusive"
        assert (judged.seeds_needed is not None) == seeds
        assert bool(steps([judged], runs)) == seeds
        assert (judged.reason == "its premise is shown not to hold") != seeds


def test_without_its_measure_a_claim_is_untestable() -> None:
    runs = World().draw(["both-low", "exp6", "both-high"], 5, np.random.default_rng(0))
    bare = {arm: [run._replace(final={}) for run in of_arm] for arm, of_arm in runs.items()}
    assert one(25, bare).why_not == "the runs of exp6 have no variance shift"


@pytest.mark.parametrize("seeds", [1, 2])
def test_before_the_first_look_nothing_is_decided(seeds: int) -> None:
    runs = World().but("exp2", accuracy=0.97, nll=0.15).draw(["exp1", "exp2"], seeds, np.random.default_rng(0))
    entry = one(3, runs)
    assert (entry.verdict, entry.looks) == ("inconclusive", ())
    assert math.isnan(entry.shown.low) == (seeds == 1)


def test_a_run_that_diverged_counts_as_a_guess() -> None:
    runs = World().but("exp2", accuracy=0.97, nll=0.15).draw(["exp1", "exp2"], 5, np.random.default_rng(0))
    runs["exp2"][2] = diverged(runs["exp2"][2])
    assert one(3, runs).verdict == "inconclusive"
    assert Table(runs).by_seed("exp2", ACCURACY)[2] == 0.1


def diverged(run: ArmRun) -> ArmRun:
    return run._replace(state="diverged", epochs=[], final={}, history_sha256="")


def test_one_run_that_diverged_is_no_larger_variance_of_accuracy() -> None:
    runs = World().draw(["exp4", "exp5", "exp6"], 5, np.random.default_rng(0))
    runs["exp6"][2] = diverged(runs["exp6"][2])
    entry = one(24, runs)
    assert entry.verdict == "inconclusive"
    ratios = [test for test in entry.evidence.tests() if test.label.startswith("variance")]
    assert [dict(test.counts) for test in ratios] == [{"exp6": 4, "exp4": 5}, {"exp6": 4, "exp5": 5}]


def test_one_part_of_several_is_judged_by_itself_where_the_others_have_no_values() -> None:
    runs = World().draw(["exp4", "exp5", "exp6", "both-low", "both-high"], 5, np.random.default_rng(0))
    runs["exp6"] = [diverged(run) for run in runs["exp6"]]
    assert one(24, runs).verdict == "supported"
    assert one(25, runs).why_not == "the runs of exp6 have no variance shift"
    three = {arm: of_arm[:3] for arm, of_arm in runs.items()}
    assert (one(24, three).verdict, one(24, three).reason) == ("inconclusive", "would take 5 seeds")


def test_of_several_parts_all_without_values_the_claim_is_untestable() -> None:
    runs = World().draw(["exp4"], 5, np.random.default_rng(0))
    runs["exp4"] = [diverged(run) for run in runs["exp4"]]
    assert one(6, runs).why_not == "the runs of exp4 have no NLL"


def test_times_are_compared_on_one_machine_with_as_many_threads() -> None:
    xeon, epyc = Machine("1", "Xeon"), Machine("1", "EPYC")
    arms = {
        "exp4": [{xeon}, {xeon}, {xeon}, {xeon}, {xeon, epyc}],
        "none-cosine": [{xeon}, {xeon._replace(threads="2")}, {epyc}, {xeon}, {xeon}],
    }
    drawn = World().draw(arms, 5, np.random.default_rng(0))
    runs = {
        arm: [run._replace(machines=frozenset(on)) for run, on in zip(drawn[arm], machines, strict=True)]
        for arm, machines in arms.items()
    }
    (ratio,) = CLAIMS[18].question.ask(Table(runs)).tests()
    assert dict(ratio.counts) == {"exp4": 2, "none-cosine": 2}
    seconds = [[run.epochs[-1]["time/epoch_s"] for run in (of_arm[0], of_arm[3])] for of_arm in runs.values()]
    assert ratio.estimate == pytest.approx(np.mean(np.log(seconds[0]) - np.log(seconds[1])))
    apart = {arm: of_arm[1:3] for arm, of_arm in runs.items()}
    assert one(19, apart).why_not == "the runs of exp4 have no seconds an epoch with equal threads and hardware"


def test_a_verdict_once_reached_stays() -> None:
    random = np.random.default_rng(0)
    better = World().but("exp2", accuracy=0.97, nll=0.15).draw(["exp1", "exp2"], 10, random)
    same = World().draw(["exp1", "exp2"], 10, random)
    mixed = {arm: better[arm][:5] + same[arm][5:] for arm in ("exp1", "exp2")}
    assert one(3, {arm: runs[:5] for arm, runs in mixed.items()}).verdict == "supported"
    assert one(3, mixed).verdict == "supported"


def test_the_seeds_that_settle_a_claim_do() -> None:
    """With the seeds that are asked for, and the truth as it was estimated, 80 % of ledgers settle it."""
    random = np.random.default_rng(3)
    runs = World().but("exp8", accuracy=0.948).draw(["exp7", "exp8"], 5, random)
    evidence = above(ACCURACY, "exp8", "exp7").ask(Table(runs))
    assert isinstance(evidence, Contrast)
    needed = seeds_needed(evidence, 5, 56)
    assert needed is not None
    sd = [float(np.std([r.epochs[-1]["val/accuracy"] for r in runs[arm]], ddof=1)) for arm in ("exp7", "exp8")]
    level = ALPHA * spent(needed) / 56
    found = []
    for _ in range(400):
        samples = tuple(
            Sample(mean + s * random.standard_normal(needed))
            for mean, s in zip((evidence.estimate, 0.0), reversed(sd), strict=True)
        )
        found.append(Contrast("", "", 1, 0.0, {}, (1.0, -1.0), samples).p.support <= level)
    assert np.mean(found) >= 0.75
