"""The tests of the ledger against those of scipy and statsmodels, and against simulation."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_ind

from sweeper.replication.claims.ledger import holm
from sweeper.replication.claims.questions import rank_one
from sweeper.replication.statistics.base import Evidence, Sample, Test
from sweeper.replication.statistics.combine import Combined
from sweeper.replication.statistics.exact import Ranks, Share
from sweeper.replication.statistics.means import Contrast, Reached
from sweeper.replication.statistics.spread import Importance, VarianceRatio

A = np.array([0.931, 0.935, 0.929, 0.938, 0.933])
B = np.array([0.925, 0.931, 0.930, 0.921])
C = np.array([0.920, 0.926, 0.919, 0.931, 0.922, 0.927])
HALF = stats.t.ppf(0.975, 4) * A.std(ddof=1) * math.sqrt(1 + 1 / 5)  # of the prediction interval of A
SIDES = (("greater", 0), ("less", 1))

same = partial(pytest.approx, rel=1e-12, abs=1e-15)


def contrast(*samples: np.ndarray, weights: tuple[float, ...] = (1.0, -1.0), direction: int = 1, null: float = 0.0):
    return Contrast("accuracy", "points", direction, null, {}, weights, tuple(map(Sample, samples)))


def every(*parts: Evidence, **options: object) -> Combined:
    return Combined(parts, every=True, **options)


def some(*parts: Evidence) -> Combined:
    return Combined(parts, every=False)


def reached(value: float, margin: float = 0.003) -> Reached:
    return Reached("accuracy", "points", 1, value - margin, {}, (1.0,), (Sample(A),), value)


def normal(random: np.random.Generator, n: int, mean: float = 0.0) -> np.ndarray:
    return mean + random.standard_normal(n)


# --- means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [1, -1])
def test_two_samples_are_welchs_test(direction: int) -> None:
    ours = contrast(A, B, direction=direction)
    for side, index in SIDES:
        assert ours.tails[index] == same(stats.ttest_ind(A, B, equal_var=False, alternative=side).pvalue)
    assert tuple(ours.p) == ours.tails[::direction]
    theirs = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert ours.interval(0.025) == same((theirs.low, theirs.high))


def test_one_sample_is_students_test_and_differences_within_runs_are_the_paired_one() -> None:
    one = contrast(A, weights=(1.0,), null=0.93)
    paired = contrast(A[:4] - B, weights=(1.0,))
    for side, index in SIDES:
        assert one.tails[index] == same(stats.ttest_1samp(A, 0.93, alternative=side).pvalue)
        assert paired.tails[index] == same(stats.ttest_rel(A[:4], B, alternative=side).pvalue)


def test_two_one_sided_tests_are_an_intersection() -> None:
    theirs = ttost_ind(A, B, -0.003, 0.02, usevar="unequal")[0]
    assert every(contrast(A, B, null=-0.003), contrast(A, B, direction=-1, null=0.02)).p.support == same(theirs)


def test_an_interaction_has_the_size_it_says() -> None:
    random = np.random.default_rng(0)
    weights = (1.0, -1.0, -1.0, 1.0)
    p = [
        contrast(normal(random, 5), 3 * normal(random, 5), normal(random, 4), normal(random, 6), weights=weights)
        for _ in range(4000)
    ]
    assert np.mean([one.p.support <= 0.05 for one in p]) == pytest.approx(0.05, abs=0.012)


def test_power_is_that_of_statsmodels() -> None:
    sample = contrast(A - 0.93, weights=(1.0,))
    effect = sample.estimate / A.std(ddof=1)
    for n, alpha in ((5, 0.025), (12, 0.001), (40, 0.0001)):
        theirs = TTestPower().power(effect, n, alpha, alternative="larger")
        assert sample.power(n, alpha, support=True) == pytest.approx(theirs, abs=1e-6)
        assert sample.power(n, alpha, support=False) == 0


def test_power_is_monotone_where_the_series_ends() -> None:
    far = contrast(A, weights=(1.0,))  # more than 500 standard errors from 0
    powers = [far.power(n, 1e-9, support=True) for n in (3, 4, 5, 8, 20, 1280)]
    assert powers == sorted(powers)
    assert powers[-1] == pytest.approx(1)


def test_a_value_above_the_prediction_interval_is_not_reached() -> None:
    outside, inside = reached(A.mean() + 1.01 * HALF).p, reached(A.mean() + 0.99 * HALF).p
    assert outside.support == 1
    assert outside.contradict < 0.025 < inside.contradict
    assert reached(0.93).p.support < 0.05 < reached(0.938).p.support
    told = every(reached(0.93), contrast(A, B), chances=lambda: {"more": 1.0}).facts()
    assert told.pop("more") == 1
    assert list(told.values()) == same([A.mean() - HALF, A.mean() + HALF])


def test_no_number_of_seeds_supports_a_value_that_will_lie_above_the_prediction_interval() -> None:
    def powers(value: float) -> list[float]:
        return [reached(value, 0.03).power(n, 0.001, support=True) for n in (5, 1000)]

    assert powers(A.mean() + 1.01 * HALF) == [0, 0]
    below_five_and_above_a_thousand = powers(A.mean() + 0.99 * HALF)  # with the same spread that interval is narrower
    assert below_five_and_above_a_thousand[0] > 0.9
    assert below_five_and_above_a_thousand[1] == 0
    assert powers(A.mean() + 0.5 * HALF)[1] == pytest.approx(1)


# --- shares and counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (7, 9)])
def test_a_share_is_clopper_and_pearsons(successes: int, n: int) -> None:
    ours = Share("", "share", 1, 0.9, {}, successes, n)
    for side, index in SIDES:
        assert ours.tails[index] == same(stats.binomtest(successes, n, 0.9, alternative=side).pvalue)
    limits = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    assert ours.interval(0.025) == (limits.low, limits.high)


def test_the_power_of_a_share_is_exact() -> None:
    all_of_five = Share("", "share", 1, 0.9, {}, 5, 5)
    enough = math.ceil(math.log(0.025) / math.log(0.9))
    assert all_of_five.power(enough, 0.025, support=True) == 1
    assert all_of_five.power(enough - 1, 0.025, support=True) == 0


@pytest.mark.parametrize(("first", "second"), [([4, 4, 3, 4], [3, 3, 2]), ([1, 1, 1], [1, 1, 1]), ([7, 0, 9], [2, 2])])
def test_ranks_are_the_exact_permutation_test(first: list[int], second: list[int]) -> None:
    ours = Ranks("", "", 1, 0.0, {}, np.array(first), np.array(second))
    for side, index in SIDES:
        theirs = stats.permutation_test(
            (first, second), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), vectorized=True, alternative=side
        )
        assert ours.tails[index] == same(theirs.pvalue)


def test_ranks_of_samples_that_do_not_vary() -> None:
    apart = Ranks("", "", 1, 0.0, {}, np.full(5, 3), np.full(5, 2))
    assert apart.p.support == same(1 / math.comb(10, 5))
    assert apart.power(5, 0.001, support=True) == 0
    assert apart.power(7, 0.001, support=True) == 1


# --- spread -------------------------------------------------------------------------------------------------


def test_the_ratio_of_variances_is_f() -> None:
    ours = VarianceRatio("", "x", 1, 1.0, {}, Sample(A), Sample(C))
    ratio = A.var(ddof=1) / C.var(ddof=1)
    assert ours.tails == same((stats.f.sf(ratio, 4, 5), stats.f.cdf(ratio, 4, 5)))
    low, high = ours.interval(0.025)
    assert stats.f.sf(ratio / low, 4, 5) == same(0.025)
    assert stats.f.cdf(ratio / high, 4, 5) == same(0.025)


def test_an_importance_lies_in_its_interval_and_is_welchs() -> None:
    ours = Importance("", "share", 1, 0.0, {}, tuple(map(Sample, (A, B, C))), 0.003)
    low, high = ours.interval(0.025)
    assert 0 < low < ours.estimate < high < 1
    two = Importance("", "share", 1, 0.0, {}, (Sample(A), Sample(C)), 0.003)
    assert two.p.support == same(stats.ttest_ind(A, C, equal_var=False).pvalue)
    assert ours.p.contradict > 0.5


def test_levels_that_do_not_differ_are_shown_to_lie_within_the_margin() -> None:
    random = np.random.default_rng(0)
    levels = tuple(Sample(0.93 + 0.001 * normal(random, 40)) for _ in range(3))
    ours = Importance("", "share", 1, 0.0, {}, levels, 0.003)
    assert ours.p.contradict < 1e-6
    assert ours.p.support > 0.01


# --- without values -----------------------------------------------------------------------------------------

NONE, FEW = Sample(A[:0]), Sample(A)
NO_COUNTS, COUNTS = np.array([], dtype=np.int64), np.array([1, 2, 4])


@pytest.mark.parametrize(
    "test",
    [
        Contrast("", "", 1, 0.0, {}, (1.0, -1.0), (NONE, FEW)),
        Contrast("", "", 1, 0.0, {}, (1.0,), (NONE,)),
        Contrast("no spread", "", 1, 0.0, {}, (1.0, -1.0), (Sample(A[:1]), FEW)),
        Contrast("no spread", "", 1, 0.0, {}, (1.0, -1.0), (Sample(np.full(3, 0.5)), Sample(np.full(4, 0.4)))),
        Reached("", "", 1, 0.9, {}, (1.0,), (NONE,), 0.95),
        Share("", "", 1, 0.05, {}, 0, 0),
        Ranks("", "", 1, 0.0, {}, NO_COUNTS, COUNTS),
        Ranks("", "", 1, 0.0, {}, COUNTS, NO_COUNTS),
        Ranks("", "", 1, 0.0, {}, NO_COUNTS, NO_COUNTS),
        VarianceRatio("", "", 1, 1.0, {}, NONE, FEW),
        VarianceRatio("", "", 1, 1.0, {}, FEW, NONE),
        Importance("", "", 1, 0.0, {}, (FEW, NONE, FEW), 0.003),
    ],
    ids=lambda test: type(test).__name__,
)
def test_without_values_or_spread_nothing_is_found(test: Test) -> None:
    assert test.p == (1, 1)
    assert math.isnan(test.estimate) or test.label == "no spread"
    assert all(math.isnan(end) for end in test.interval(0.025))
    assert [test.power(5, 0.025, support=side) for side in (True, False)] == [0, 0]
    assert test.facts() == {}


# --- combined -----------------------------------------------------------------------------------------------


class Known(Test):
    """A test whose p-values are given."""

    method = "given"

    def __init__(self, support: float, contradict: float = 1.0, unit: str = "points") -> None:
        super().__init__("given", unit, 1, 0.0, {"exp1": 5})
        object.__setattr__(self, "given", (support, contradict))

    estimate = property(lambda self: -self.given[0])
    tails = property(lambda self: self.given)

    def interval(self, alpha: float) -> tuple[float, float]:
        return self.estimate - 1 + alpha, self.estimate + 1 - alpha

    def power(self, n: int, alpha: float, *, support: bool) -> float:
        return 0.9 if support else 0.2


def powers(evidence: Evidence) -> list[float]:
    return [evidence.power(5, 0.01, support=side) for side in (True, False)]


def test_all_takes_the_largest_p_and_any_the_smallest_times_their_number() -> None:
    parts = Known(0.01, 0.9), Known(0.04, 0.02)
    assert every(*parts).p == (0.04, 0.04)
    assert some(*parts).p == (0.02, 0.9)


def test_the_power_of_a_combination_is_bounded_by_bonferroni() -> None:
    parts = Known(0.01), Known(0.04)
    assert powers(every(*parts)) == pytest.approx([0.8, 0.2])
    assert powers(some(*parts)) == pytest.approx([0.9, 0])


@pytest.mark.parametrize(("p", "chance", "support"), [(0.001, 0.9, 1), (0.001, 0.95, 0.001), (0.5, 0.96, 0.5)])
def test_a_chance_withholds_support_and_gives_none(p: float, chance: float, support: float) -> None:
    assert every(Known(p), chances=lambda: {"first": 0.99, "second": chance}, least=0.95).p == (support, 1)


@pytest.mark.parametrize("p", [(0.001, 1.0), (1.0, 0.001)])
def test_without_its_premise_there_is_no_verdict(p: tuple[float, float]) -> None:
    refuted = every(Known(*p), premise=Known(1.0, 0.025))
    assert (refuted.p, refuted.premise_holds(), powers(refuted)) == ((1, 1), False, [0, 0])
    holds = every(Known(*p), premise=Known(1.0, 0.026))
    assert (holds.p, holds.premise_holds(), powers(holds)) == (p, True, [0.9, 0.2])


def test_above_the_better_of_two_is_the_smaller_difference() -> None:
    random = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        x, y, z = normal(random, 5, 0.3), normal(random, 5), normal(random, 5)
        least = every(contrast(x, y), contrast(x, z)).shown(0.025)
        assert least.estimate == min(x.mean() - y.mean(), x.mean() - z.mean())
        inside.append((least.low <= 0.3, least.high >= 0.3))
    missed = 1 - np.mean(inside, axis=0)
    assert (missed <= 0.025 + 0.008).all(), missed  # of each side: exact intervals of the naive minimum would miss more


def test_the_part_that_decides_is_shown() -> None:
    parts = Known(0.01, 0.9, "points"), Known(0.04, 0.8, "nats")
    against = Known(0.9, 0.01, "points"), Known(0.8, 0.04, "nats")
    assert [every(*parts).shown(0.025).unit, some(*parts).shown(0.025).unit] == ["nats", "points"]
    assert [every(*against).shown(0.025).unit, some(*against).shown(0.025).unit] == ["points", "nats"]


def test_the_probability_of_rank_one() -> None:
    assert rank_one([A, C, C]) > 0.99
    assert rank_one([C, A]) < 0.01
    assert rank_one([A, A]) == pytest.approx(0.5, abs=0.03)
    assert rank_one([A, A[:0]]) == 0


def test_holms_correction_is_that_of_statsmodels() -> None:
    some_equal = [*np.random.default_rng(0).random(40) ** 4, *[0.0003] * 5, 0.0, 1.0]
    assert holm(some_equal) == list(multipletests(some_equal, method="holm")[1])
