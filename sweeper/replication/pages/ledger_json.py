"""The ledger as JSON, with everything that is needed to redo the verdicts."""

from __future__ import annotations

import math
from typing import Any

from sweeper.replication.claims.ledger import ALPHA, POWER, Detail, Judged, Verified, spent
from sweeper.replication.pages.ledger import Entry, Ledger
from sweeper.replication.runs import ArmRun
from sweeper.replication.statistics.base import Test


def as_json(found: Verified, shown: Ledger) -> dict[str, Any]:
    """The ledger and its runs; values that cannot be computed are null."""
    pairs = zip(shown.entries, found.judged, found.details, strict=True)
    return {
        "protocol": found.protocol,
        "declared": "under our declared instantiation of the article, docs/reproduction.md",
        "provenance": dict(shown.provenance),
        "alpha": ALPHA,
        "power": POWER,
        "method": shown.method,
        "claims": [_claim_json(*pair) for pair in pairs],
        "contradictions": list(shown.contradictions),
        "links": dict(shown.links),
        "runs": {arm: [_run_json(run) for run in runs] for arm, runs in found.runs.items()},
    }


def _claim_json(entry: Entry, judged: Judged, detail: Detail | None) -> dict[str, Any]:
    looked = judged.looked
    return {
        "claim": entry.number,
        "says": entry.says,
        "supported_if": entry.question,
        "verdict": entry.verdict,
        "reason": entry.reason,
        "arms": list(entry.arms),
        "seeds": looked.seeds,
        "decided_by": None if detail is None else {
            "label": entry.label, "test": entry.test, "n": dict(entry.counts), "unit": entry.unit,
            "claimed": "above" if entry.direction > 0 else "below",
            "bound": entry.bound, "estimate": _finite(entry.estimate),
            "interval_95": [_finite(entry.low), _finite(entry.high)],
        },
        "looks": [look._asdict() | {"share_of_alpha": spent(look.seeds)} for look in looked.looks],
        "p_sequential": looked.p._asdict(),
        "p_holm": judged.p_holm._asdict(),
        "seeds_needed": detail.seeds_needed if detail else None,
        "also": {name: _finite(value) for name, value in entry.also.items()},
        "tests": [_test_json(test) for test in detail.evidence.tests()] if detail else [],
        "notes": list(entry.notes),
    }  # fmt: skip


def _test_json(test: Test) -> dict[str, Any]:
    low, high = test.interval(ALPHA / 2)
    return {
        "test": type(test).__name__,
        "label": test.label,
        "unit": test.unit,
        "claimed": "above" if test.direction > 0 else "below",
        "bound": test.null,
        "n": dict(test.counts),
        "estimate": _finite(test.estimate),
        "interval_95": [_finite(low), _finite(high)],
        "p_support": test.p_support,
        "p_contradict": test.p_contradict,
    }


def _run_json(run: ArmRun) -> dict[str, Any]:
    return {"seed": run.seed, "state": run.state, "journal": str(run.folder), "history_sha256": run.history_sha256,
            "run_id": run.run_id}  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
