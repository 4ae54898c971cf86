"""The ledger: a verdict for each claim. False verdicts are rare, however often the runs are analysed.

Two null hypotheses are tested for each claim: that it is false (support), and that it is true (against). The ledger
holds 56 p-values. With two corrections, at most 5 % of ledgers contain a false verdict:

Interim analyses. A claim is judged at 3, 5, 10, 20, 40, ... seeds of each of its arms, always the first ones, and at
no number between. A look, in this package, is one such analysis. The look at n seeds spends the share w(n) of alpha:
1/16, 7/16, 1/4, 1/8, ... (`spent`). The shares sum to 1, so by Bonferroni's inequality
P(p(n) <= w(n) alpha for some n) <= alpha, whenever and for whatever reason one looks or stops (Slud and Wei 1982,
JASA 77; an alpha-spending function in the sense of Lan and DeMets 1983, Biometrika 70, with fixed looks). The smallest
p(n) / w(n) so far is a p-value itself (the sequential p-value of Liu and Anderson 2008, JASA 103). It depends on the
runs alone: analysing the same runs again spends nothing.

Claims. These p-values are corrected by Holm's method (Holm 1979, Scandinavian Journal of Statistics 6) over all 56,
untestable claims included with p = 1. The method assumes nothing about their dependence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from statsmodels.stats.multitest import multipletests

from sweeper.core.errors import StudyIncomplete
from sweeper.replication.arms import ProtocolName
from sweeper.replication.claims.claims import Claim
from sweeper.replication.claims.questions import Table
from sweeper.replication.runs import ArmRun
from sweeper.replication.statistics.base import Evidence, Shown

ALPHA: Final = 0.05  # of a ledger
POWER: Final = 0.8
FIRST_LOOK: Final = 3
MOST_SEEDS: Final = 1_280

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


class Pair(NamedTuple):
    """A p-value for support, and one against."""

    support: float
    contradict: float


@dataclass(frozen=True)
class Looked:
    """The looks at one claim so far; `why_not` says why it cannot be tested."""

    claim: Claim
    seeds: int  # of the arm with the fewest
    looks: tuple[Look, ...]
    why_not: str = ""

    @property
    def p(self) -> Pair:
        """Sequential: the smallest of p / share over the looks."""
        return Pair(
            min([1.0, *(look.support / spent(look.seeds) for look in self.looks)]),
            min([1.0, *(look.contradict / spent(look.seeds) for look in self.looks)]),
        )


@dataclass(frozen=True)
class Judged:
    """One claim with its verdict and the p-values behind it."""

    looked: Looked
    p_holm: Pair
    verdict: Verdict

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.looked.claim


def look_at(claims: Sequence[Claim], runs: Runs, protocol: str) -> list[Looked]:
    """The looks that the recorded runs allow, for each claim."""
    tables: dict[int, Table] = {}
    everything = Table(runs)
    return [_look_at(claim, runs, everything, tables, protocol) for claim in claims]


def _look_at(claim: Claim, runs: Runs, everything: Table, tables: dict[int, Table], protocol: str) -> Looked:
    arms = claim.question.arms
    seeds = min(first_seeds(runs.get(arm, ())) for arm in arms)
    if why_not := _why_not(claim, runs, everything, protocol):
        return Looked(claim, seeds, (), why_not)
    looks = []
    for time in look_times(seeds):
        evidence = claim.question.ask(tables.setdefault(time, Table(runs, time)))
        looks.append(Look(time, evidence.p_support, evidence.p_contradict))
    return Looked(claim, seeds, tuple(looks))


def _why_not(claim: Claim, runs: Runs, everything: Table, protocol: str) -> str:
    """Why a claim cannot be tested; empty if it can."""
    if claim.needs_full and not (protocol == "full" and _on_all_images(claim, runs)):
        return claim.needs_full
    if missing := [arm for arm in claim.question.arms if not runs.get(arm)]:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return f"no run of {shown}; run sweeper reproduce --protocol {protocol}"
    found = claim.question.ask(everything).lacking(1)
    return f"the runs of {found.arm} have no {found.quantity}" if found else ""


def _on_all_images(claim: Claim, runs: Runs) -> bool:
    """Whether all runs of the claim's arms saw all images: the embedded sample can be trained by any protocol."""
    return all(run.all_images for arm in claim.question.arms for run in runs.get(arm, ()))


def judge(looked: Sequence[Looked], alpha: float = ALPHA) -> list[Judged]:
    """A verdict for each claim, after Holm's correction over both p-values of all claims."""
    p = [value for entry in looked for value in entry.p]
    adjusted = holm(p)
    pairs = [Pair(*adjusted[i : i + 2]) for i in range(0, len(adjusted), 2)]
    return [Judged(entry, pair, _verdict(entry, pair, alpha)) for entry, pair in zip(looked, pairs, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """P-values that control the family-wise error rate: the k-th smallest of m times m + 1 - k, made monotone."""
    return [float(value) for value in multipletests(p, method="holm")[1]]


def _verdict(looked: Looked, p_holm: Pair, alpha: float) -> Verdict:
    if looked.why_not:
        return "untestable"
    if min(p_holm) > alpha:
        return "inconclusive"
    return "supported" if p_holm.support <= p_holm.contradict else "contradicted"


@dataclass(frozen=True)
class Detail:
    """What the ledger reports beside a verdict, from all seeds, not only those of an interim analysis."""

    judged: Judged
    shown: Shown  # with the 95 % interval
    seeds_needed: int | None  # of each arm, to decide the claim; None: decided, untestable, or more than MOST_SEEDS
    evidence: Evidence


def details(judged: Sequence[Judged], runs: Runs) -> list[Detail | None]:
    """The details of each claim; None for those that cannot be tested."""
    table = Table(runs)
    rejected = sum(p <= ALPHA for entry in judged for p in entry.p_holm)
    left = 2 * len(judged) - rejected
    return [None if entry.looked.why_not else _detail(entry, table, left) for entry in judged]


def _detail(judged: Judged, table: Table, left: int) -> Detail:
    """`left` is the number of p-values that Holm's next step divides alpha by."""
    evidence = judged.claim.question.ask(table)
    last = judged.looked.looks[-1].seeds if judged.looked.looks else 0
    return Detail(
        judged=judged,
        shown=evidence.shown(ALPHA / 2),
        seeds_needed=seeds_needed(evidence, last, left) if judged.verdict == "inconclusive" else None,
        evidence=evidence,
    )


@dataclass(frozen=True)
class Verified:
    """The runs of a protocol, judged."""

    journal: Path
    protocol: ProtocolName
    runs: Runs
    judged: list[Judged]
    details: list[Detail | None]
    incomplete: StudyIncomplete | None = None  # why next runs failed; a budget that was too short is no failure


def seeds_needed(evidence: Evidence, after: int, left: int) -> int | None:
    """The first interim analysis beyond `after` seeds that decides a claim, either way, with power 0.8.

    Assumes that the true values and the spread over seeds are those estimated now. None if 1,280 seeds are too few.
    """
    for seeds in look_times(MOST_SEEDS):
        level = ALPHA * spent(seeds) / left
        if seeds > after and max(evidence.power(seeds, level, support=side) for side in (True, False)) >= POWER:
            return seeds
    return None


def reason(detail: Detail | None, judged: Judged) -> str:
    """The reason for the verdict in a few words."""
    looked = judged.looked
    match judged.verdict:
        case "untestable":
            return looked.why_not
        case "supported":
            return f"decided at {_decided(looked, 'support')} seeds"
        case "contradicted":
            return f"decided at {_decided(looked, 'contradict')} seeds"
    if looked.seeds < FIRST_LOOK:
        return f"n={looked.seeds}: the first interim analysis is at {FIRST_LOOK} seeds of each arm"
    if detail is None:
        return ""
    if few := detail.evidence.lacking(2):
        return f"fewer than two runs of {few.arm} have {few.quantity}"
    if not detail.evidence.premise_holds():
        return "its premise is shown not to hold"
    needed = detail.seeds_needed
    return f"would take {needed:,} seeds" if needed else f"would take more than {MOST_SEEDS:,} seeds"


def _decided(looked: Looked, side: Literal["support", "contradict"]) -> int:
    """The seeds of the look with the smallest p / share."""
    return min(looked.looks, key=lambda look: getattr(look, side) / spent(look.seeds)).seeds
