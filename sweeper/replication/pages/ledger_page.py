"""The ledger as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from sweeper.replication.pages.ledger import (
    PICTURED,
    ArmRow,
    Entry,
    Ledger,
    counts,
    forest,
    interval,
    linked_runs,
    looks,
    n_runs,
    p_value,
    provenance_line,
    summary_words,
)
from sweeper.report.page import Cell, Section, Value, facts, folded, page, png, table, text

VERDICT_ORDER = ("supported", "contradicted", "inconclusive", "untestable")
ARMS_IN_A_ROW = 4


def html(ledger: Ledger, picture: bytes | None = None) -> bytes:
    """The page; `picture` is the forest plot, drawn if it is not given."""
    parts = [
        *ledger_sections(ledger, picture),
        Section("Where it holds", facts(ledger.provenance.items())),
        Section("Runs", table(*_runs(ledger), caption=provenance_line(ledger))),
    ]
    return page(f"The article's claims, protocol {ledger.protocol}", summary_words(ledger), parts)


def ledger_sections(ledger: Ledger, picture: bytes | None = None) -> list[Section]:
    """The sections that judge the claims, also of another page."""
    where = provenance_line(ledger)
    return [
        Section("Verdicts", Markup("").join([table(*_verdicts(ledger), caption=where), text(ledger.method)])),
        Section("Differences", png(picture or forest(ledger), f"{PICTURED}. Of all claims: {counts(ledger)}.")),
        Section("What counts as supported", Markup("").join([text(where), *_questions(ledger)])),
        Section("Where the article contradicts itself", Markup("").join(map(text, ledger.contradictions))),
    ]


def _verdicts(ledger: Ledger) -> tuple[Sequence[str], Iterator[Sequence[Value]]]:
    head = (
        "#",
        "claim",
        "verdict",
        "difference [95 %]",
        "p, Holm",
        "n",
        "interim analyses at",
        "takes seeds",
        "decided by",
        "test",
        "arms",
        "reason",
        "p, before Holm",
    )
    return head, (_verdict(ledger, entry) for entry in ledger.entries)


def _verdict(ledger: Ledger, e: Entry) -> Sequence[Value]:
    order = f"{VERDICT_ORDER.index(e.verdict)}"
    estimate = None if math.isnan(e.estimate) else e.direction * (e.estimate - e.bound)
    return (
        e.number, e.says, Cell(Markup("<strong>{}</strong>").format(e.verdict), order), Cell(interval(e), estimate),
        _p(e.p_holm), Cell(n_runs(e), min(e.counts.values())), Cell(looks(e), len(e.looks)),
        Cell(e.takes, int(e.takes.strip(">")) if e.takes else None), e.label, e.test,
        _arms(ledger, e.arms, ARMS_IN_A_ROW), e.reason, _p(e.p),
    )  # fmt: skip


def _p(value: float) -> Cell:
    return Cell(p_value(value), None if math.isnan(value) else value)


def _questions(ledger: Ledger) -> Iterator[Markup]:
    """For each claim, folded: when it counts as supported, its test, arms and notes."""
    for e in ledger.entries:
        told = facts([("test", e.test), ("arms", _arms(ledger, e.arms)), *e.also.items()])
        words = [text(f"Supported if: {e.question}."), told, *map(text, e.notes)]
        yield folded(f"{e.number} \N{MIDDLE DOT} {e.says}", Markup("").join(words))


def _arms(ledger: Ledger, arms: Sequence[str], most: int | None = None) -> Markup:
    """The names of arms, each with its runs in MLflow by seed; of the first `most`."""
    shown = [
        Markup(" ").join([
            Markup.escape(arm),
            *(Markup('<a href="{}">{}</a>').format(link, seed) for seed, link in linked_runs(ledger, arm)),
        ])
        for arm in arms[:most]
    ]  # fmt: skip
    more = [Markup("and {} more, below").format(len(arms) - len(shown))] if len(arms) > len(shown) else []
    return Markup(", ").join(shown + more)


def _runs(ledger: Ledger) -> tuple[Sequence[str], Iterator[Sequence[Value]]]:
    return ("arm", "seeds", "diverged", "MLflow runs"), (
        (row.arm, len(row.runs), row.diverged, _links(ledger, row)) for row in ledger.arms
    )


def _links(ledger: Ledger, row: ArmRow) -> Markup:
    parts = [
        Markup('<a href="{}">seed {}</a>').format(ledger.links[run_id], seed)
        if run_id is not None and run_id in ledger.links
        else Markup("seed {}").format(seed)
        for seed, run_id in row.runs
    ]
    return Markup(" ").join(parts)
