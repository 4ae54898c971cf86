"""The ledger: a verdict for each claim. False verdicts are rare, however often the runs are analysed.

Two null hypotheses are tested for each claim: that it is false (support), and that it is true (against). With two
corrections, at most 5 % of ledgers contain a false verdict:

Interim analyses. A claim is judged at 3, 5, 10, 20, 40, ... seeds of each of its arms, always the first ones, and at
no number between. A look, in this package, is one such analysis. The look at n seeds spends the share w(n) of alpha:
1/16, 7/16, 1/4, 1/8, ... (`spent`). The shares sum to 1, so by Bonferroni's inequality
P(p(n) <= w(n) alpha for some n) <= alpha, whenever and for whatever reason one looks or stops (Slud and Wei 1982,
JASA 77; an alpha-spending function in the sense of Lan and DeMets 1983, Biometrika 70, with fixed looks). The smallest
p(n) / w(n) so far is a p-value itself (the sequential p-value of Liu and Anderson 2008, JASA 103). It depends on the
runs alone: analysing the same runs again spends nothing.

Claims. These p-values are corrected by Holm's method (Holm 1979, Scandinavian Journal of Statistics 6) over both
of all claims, untestable ones included with p = 1. The method assumes nothing about their dependence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from sweeper.core.errors import StudyIncomplete
from sweeper.replication.article import Reproduction
from sweeper.replication.claims.claim import Claim
from sweeper.replication.claims.questions import Table
from sweeper.replication.runs import ArmRun, circumstances
from sweeper.replication.statistics.base import Evidence, PValues, Shown

ALPHA: Final = 0.05  # of a ledger
POWER: Final = 0.8
FIRST_LOOK: Final = 3
MOST_SEEDS: Final = 1_280
METHOD: Final = (
    "A claim is supported or contradicted if its p-value is at most 0.05 after Holm's correction over the {} p-values "
    "of the ledger and the correction for interim analyses at 3, 5, 10, 20, ... seeds (see "
    "docs/explanation/claims.md). The interval is the 95 % interval without these corrections. An inconclusive claim "
    "names the seeds of each arm that would decide it with a power of 80 %, if the current estimates are the truth."
)

UNDECIDED: Final = PValues(1.0, 1.0)
Verdict = Literal["supported", "contradicted", "inconclusive", "untestable"]
Runs = Mapping[str, Sequence[ArmRun]]


def spent(seeds: int) -> float:
    """The share of alpha that the look at `seeds` spends: 1/16 at 3, 7/16 at 5, then 1/4 at 10, 1/8 at 20, ..."""
    return {3: 1 / 16, 5: 7 / 16}.get(seeds, 1.25 / (seeds / 5) / 2.5)


def look_times(most: int) -> Iterator[int]:
    """The numbers of seeds at which a claim is judged, up to `most`."""
    seeds = FIRST_LOOK
    while seeds <= most:
        yield seeds
        seeds = 5 if seeds == FIRST_LOOK else 2 * seeds


def first_seeds(runs: Sequence[ArmRun]) -> int:
    """The number of seeds 0, 1, 2, ... before the first missing one, so that a look never changes later."""
    seeds = {run.seed for run in runs}
    return next(i for i in range(len(seeds) + 1) if i not in seeds)


class Look(NamedTuple):
    """The p-values at one number of seeds, for support and against."""

    seeds: int
    support: float
    contradict: float


@dataclass(frozen=True)
class Judged:
    """One claim with its verdict, and everything behind it."""

    claim: Claim
    why_not: str  # the reason why it is untestable; empty if it can be tested
    counts: Mapping[str, int]  # recorded runs by arm
    seeds: int  # of the arm with the fewest, up to its first missing one
    looks: tuple[Look, ...]
    evidence: Evidence  # of all seeds, not only those of an interim analysis
    p_holm: PValues = UNDECIDED
    verdict: Verdict = "inconclusive"
    not_rejected: int = 0  # p-values of the ledger; Holm's next step divides alpha by their number

    @property
    def p(self) -> PValues:
        """Sequential: the smallest of p / share over the looks."""
        return PValues(
            min([1.0, *(look.support / spent(look.seeds) for look in self.looks)]),
            min([1.0, *(look.contradict / spent(look.seeds) for look in self.looks)]),
        )

    @cached_property
    def shown(self) -> Shown:
        """The number that decides the claim, with its 95 % interval; NaN if the claim is untestable."""
        return Shown(counts=self.counts) if self.why_not else self.evidence.shown(ALPHA / 2)

    @property
    def facts(self) -> dict[str, float]:
        """Further numbers to report, by name."""
        return {} if self.why_not else self.evidence.facts()

    @cached_property
    def seeds_needed(self) -> int | None:
        """The seeds of each arm that would decide an inconclusive claim; None if more than 1,280."""
        if self.verdict != "inconclusive":
            return None
        return seeds_needed(self.evidence, self.looks[-1].seeds if self.looks else 0, self.not_rejected)

    @property
    def takes(self) -> str:
        """The seeds that would decide an inconclusive claim, such as >1280; empty where no number can be estimated."""
        if self.verdict != "inconclusive" or self.evidence.lacking(2) or not self.evidence.premise_holds():
            return ""
        return str(self.seeds_needed or f">{MOST_SEEDS}")

    @property
    def reason(self) -> str:
        """The reason for the verdict in a few words."""
        match self.verdict:
            case "untestable":
                return self.why_not
            case "supported" | "contradicted":
                side = 1 if self.verdict == "supported" else 2
                decided = min(self.looks, key=lambda look: look[side] / spent(look.seeds))
                return f"decided at {decided.seeds} seeds"
        if self.seeds < FIRST_LOOK:
            return f"n={self.seeds}: the first interim analysis is at {FIRST_LOOK} seeds of each arm"
        if few := self.evidence.lacking(2):
            return f"fewer than two runs of {few.arm} have {few.quantity}"
        if not self.evidence.premise_holds():
            return "its premise is shown not to hold"
        needed = self.seeds_needed
        return f"would take {needed:,} seeds" if needed else f"would take more than {MOST_SEEDS:,} seeds"


@dataclass(frozen=True)
class Ledger:
    """The runs of a protocol, and the verdicts on all claims."""

    journal: Path
    of: Reproduction
    runs: Runs
    judged: Sequence[Judged]
    links: Mapping[str, str] = field(default_factory=dict)  # MLflow run to its address
    incomplete: StudyIncomplete | None = None  # the error if next runs failed; too short a budget is no failure

    @property
    def method(self) -> str:
        """The statistics in short."""
        return METHOD.format(2 * len(self.judged))

    @cached_property
    def provenance(self) -> dict[str, str]:
        """Seeds, data set, device, hardware and versions, as recorded with the runs."""
        sizes = sorted({len(of_arm) for of_arm in self.runs.values()})
        recorded = circumstances(self.runs)
        return {
            "seeds of an arm": f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
            "runs": str(sum(map(len, self.runs.values()))),
            **{name: value or "not recorded" for name, value in recorded.items() if name != "commit"},
        }


def judge(claims: Sequence[Claim], runs: Runs, of: Reproduction) -> list[Judged]:
    """Return a verdict for each claim, after Holm's correction over both p-values of all claims."""
    everything = Table(runs)
    tables = {seeds: Table(runs, seeds) for seeds in look_times(max(map(first_seeds, runs.values()), default=0))}
    looked = [_look_at(claim, runs, everything, tables, of) for claim in claims]
    adjusted = holm([p for entry in looked for p in entry.p])
    not_rejected = sum(p > ALPHA for p in adjusted)
    pairs = map(PValues, adjusted[::2], adjusted[1::2])
    return [
        replace(entry, p_holm=pair, verdict=_verdict(entry.why_not, pair), not_rejected=not_rejected)
        for entry, pair in zip(looked, pairs, strict=True)
    ]


def _look_at(claim: Claim, runs: Runs, everything: Table, tables: Mapping[int, Table], of: Reproduction) -> Judged:
    """The looks that the recorded runs allow, without a verdict yet."""
    arms = claim.question.arms
    evidence = claim.question.ask(everything)
    why_not = _why_not(claim, evidence, runs, of)
    seeds = min(first_seeds(runs.get(arm, ())) for arm in arms)
    times = () if why_not else look_times(seeds)
    looks = tuple(Look(time, *claim.question.ask(tables[time]).p) for time in times)
    return Judged(claim, why_not, {arm: len(runs.get(arm, ())) for arm in arms}, seeds, looks, evidence)


def _why_not(claim: Claim, evidence: Evidence, runs: Runs, of: Reproduction) -> str:
    """The reason why a claim cannot be tested; empty if it can."""
    arms = claim.question.arms
    if claim.needs_full and not (of.name == "full" and all(r.all_images for arm in arms for r in runs.get(arm, ()))):
        return claim.needs_full  # the embedded sample, which has fewer images, can be trained by any protocol
    if missing := [arm for arm in arms if not runs.get(arm)]:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        if not set(missing) <= set(of.select()):
            return f"{of.words} does not train {shown}; use {replace(of, name='full').options}"
        return f"no run of {shown}; run sweeper reproduce {of.options}"
    lacking = evidence.lacking(1)
    return f"the runs of {lacking.arm} have no {lacking.quantity}" if lacking else ""


def holm(p: Sequence[float]) -> list[float]:
    """P-values that control the family-wise error rate: the k-th smallest of m times m + 1 - k, made monotone.

    Equal to statsmodels' `multipletests`, which collects garbage at each call: up to half a second in a large process.
    """
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]


def _verdict(why_not: str, p_holm: PValues) -> Verdict:
    if why_not:
        return "untestable"
    if min(p_holm) > ALPHA:
        return "inconclusive"
    return "supported" if p_holm.support <= p_holm.contradict else "contradicted"


def seeds_needed(evidence: Evidence, after: int, not_rejected: int) -> int | None:
    """The first interim analysis beyond `after` seeds that decides a claim, either way, with power 0.8.

    Assumes that the true values and the spread over seeds are those estimated now. None if 1,280 seeds are too few.
    """
    for seeds in look_times(MOST_SEEDS):
        level = ALPHA * spent(seeds) / not_rejected
        if seeds > after and max(evidence.power(seeds, level, support=side) for side in (True, False)) >= POWER:
            return seeds
    return None
