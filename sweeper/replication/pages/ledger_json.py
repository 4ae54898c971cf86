"""The ledger as JSON, with everything that is needed to redo the verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sweeper.replication.claims.ledger import ALPHA, POWER, Judged, Ledger, spent
from sweeper.replication.statistics.base import Shown, Test


def as_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger and its runs; values that cannot be computed are null."""
    return {
        "article": ledger.of.article.name,
        "source": ledger.of.article.source,
        "protocol": ledger.of.name,
        "declared": ledger.of.article.declared,
        "choices": list(ledger.of.article.choices),
        "provenance": ledger.provenance,
        "alpha": ALPHA,
        "power": POWER,
        "method": ledger.method,
        "claims": [_claim_json(judged) for judged in ledger.judged],
        "contradictions": list(ledger.of.article.contradictions),
        "links": dict(ledger.links),
        "runs": {
            arm: [
                {"seed": run.seed, "state": run.state, "journal": _below(ledger.journal, run.folder),
                 "history_sha256": run.history_sha256, "run_id": run.run_id}
                for run in runs
            ]
            for arm, runs in ledger.runs.items()
        },
    }  # fmt: skip


def _below(journal: Path, folder: Path) -> str:
    """The folder of a run, by its path in the journal."""
    return str(folder.relative_to(journal) if folder.is_relative_to(journal) else folder)


def _claim_json(judged: Judged) -> dict[str, Any]:
    claim, shown = judged.claim, judged.shown
    return {
        "claim": claim.number,
        "says": claim.says,
        "section": claim.section,
        "supported_if": claim.question.words,
        "verdict": judged.verdict,
        "reason": judged.reason,
        "arms": list(claim.question.arms),
        "seeds": judged.seeds,
        "decided_by": None if judged.why_not else {"label": shown.label, "test": shown.method} | _numbers(shown),
        "looks": [look._asdict() | {"share_of_alpha": spent(look.seeds)} for look in judged.looks],
        "p_sequential": judged.p._asdict(),
        "p_holm": judged.p_holm._asdict(),
        "seeds_needed": judged.seeds_needed,
        "also": {name: _finite(value) for name, value in judged.facts.items()},
        "tests": [] if judged.why_not else [_test_json(test) for test in judged.evidence.tests()],
        "notes": list(claim.notes),
    }


def _test_json(test: Test) -> dict[str, Any]:
    shown = test.shown(ALPHA / 2)
    p = {"p_support": test.p.support, "p_contradict": test.p.contradict}
    return {"test": type(test).__name__, "label": test.label} | _numbers(shown) | p


def _numbers(shown: Shown) -> dict[str, Any]:
    return {
        "n": dict(shown.counts),
        "unit": shown.unit,
        "claimed": "above" if shown.direction > 0 else "below",
        "bound": shown.null,
        "estimate": _finite(shown.estimate),
        "interval_95": [_finite(shown.low), _finite(shown.high)],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
