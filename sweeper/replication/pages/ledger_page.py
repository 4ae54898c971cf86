"""The ledger as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from sweeper.core.text import counted
from sweeper.replication.claims.ledger import Judged, Ledger
from sweeper.replication.pages.ledger import (
    PICTURED,
    VERDICTS,
    counts,
    forest,
    heading,
    interval,
    link_of,
    linked_runs,
    looks,
    n_runs,
    p_value,
    provenance_line,
)
from sweeper.replication.runs import ArmRun, diverged
from sweeper.report.page import Cell, Section, Value, facts, folded, page, png, table, text

ARMS_IN_A_ROW = 4
HEADERS = (
    "#", "claim", "verdict", "difference [95 %]", "p, Holm", "n", "interim analyses at", "seeds needed", "decided by",
    "test", "arms", "reason", "p, before Holm",
)  # fmt: skip


def html(ledger: Ledger, picture: bytes | None = None) -> bytes:
    """The page; `picture` is the forest plot, drawn if it is not given."""
    where = provenance_line(ledger)
    runs = [
        (arm, len(runs), diverged(runs), Markup(" ").join(_link(ledger, run) for run in runs))
        for arm, runs in ledger.runs.items()
    ]
    parts = [
        *ledger_sections(ledger, picture),
        Section("Where it holds", facts(ledger.provenance.items())),
        Section("Runs", table(("arm", "seeds", "diverged", "MLflow runs"), runs, caption=where)),
    ]
    lead = f"{counted(len(ledger.judged), 'claim')}: {counts(ledger)}."
    return page(heading(ledger), lead, parts)


def ledger_sections(ledger: Ledger, picture: bytes | None = None) -> list[Section]:
    """The sections that judge the claims, also of another page."""
    where = provenance_line(ledger)
    verdicts = table(HEADERS, (_verdict(ledger, entry) for entry in ledger.judged), caption=where)
    article = ledger.of.article
    sections = [
        Section("Verdicts", verdicts + text(ledger.method)),
        Section("Differences", png(picture or forest(ledger), f"{PICTURED}. Of all claims: {counts(ledger)}.")),
        Section("What counts as supported", Markup("").join([text(where), *_questions(ledger)])),
        Section("What we chose", Markup("").join(map(text, article.choices))),
    ]
    if article.contradictions:
        words = Markup("").join(map(text, article.contradictions))
        sections.append(Section("Where the article contradicts itself", words))
    return sections


def _verdict(ledger: Ledger, judged: Judged) -> Sequence[Value]:
    claim, shown, takes = judged.claim, judged.shown, judged.takes
    estimate = None if math.isnan(shown.estimate) else shown.direction * (shown.estimate - shown.null)
    return (
        claim.number, claim.says,
        Cell(Markup("<strong>{}</strong>").format(judged.verdict), f"{VERDICTS.index(judged.verdict)}"),
        Cell(interval(shown), estimate), _p(judged, min(judged.p_holm)),
        Cell(n_runs(shown), min(shown.counts.values())), Cell(looks(judged), len(judged.looks)),
        Cell(takes, int(takes.strip(">")) if takes else None), shown.label, shown.method,
        _arms(ledger, claim.question.arms, ARMS_IN_A_ROW), judged.reason, _p(judged, min(judged.p)),
    )  # fmt: skip


def _p(judged: Judged, value: float) -> Cell:
    return Cell(p_value(value), value) if judged.looks else Cell("-", None)


def _questions(ledger: Ledger) -> Iterator[Markup]:
    """A part that opens for each claim: when it counts as supported, its test, arms and notes."""
    for judged in ledger.judged:
        claim = judged.claim
        arms = _arms(ledger, claim.question.arms)
        named = [("section", claim.section)] if claim.section else []
        told = facts([*named, ("test", judged.shown.method), ("arms", arms), *judged.facts.items()])
        words = [text(f"Supported if: {claim.question.words}."), told, *map(text, claim.notes)]
        yield folded(f"{claim.number} \N{MIDDLE DOT} {claim.says}", Markup("").join(words))


def _arms(ledger: Ledger, arms: Sequence[str], most: int | None = None) -> Markup:
    """The names of the first `most` arms, each with its runs in MLflow by seed."""
    shown = [
        Markup(" ").join([
            Markup.escape(arm),
            *(Markup('<a href="{}">{}</a>').format(link, seed) for seed, link in linked_runs(ledger, arm)),
        ])
        for arm in arms[:most]
    ]  # fmt: skip
    more = [Markup("and {} more, below").format(len(arms) - len(shown))] if len(arms) > len(shown) else []
    return Markup(", ").join(shown + more)


def _link(ledger: Ledger, run: ArmRun) -> Markup:
    link = link_of(ledger, run)
    words = Markup("seed {}").format(run.seed)
    return Markup('<a href="{}">{}</a>').format(link, words) if link else words
