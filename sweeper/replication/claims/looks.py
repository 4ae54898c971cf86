"""The record of interim analyses: one line for each analysis of new runs, beside the runs of the protocol."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.core.files import write_whole
from sweeper.replication.claims.ledger import Ledger, Runs, spent


def looks_file(ledger: Ledger) -> Path:
    """The file beside the protocol's runs."""
    return ledger.journal / f"{ledger.of.folder}.looks.jsonl"


def record_look(ledger: Ledger) -> bool:
    """Append an interim analysis and its verdicts; False if the last recorded one is of the same runs."""
    runs = fingerprint(ledger.runs)
    earlier = list(read_looks(looks_file(ledger)))
    if earlier and earlier[-1]["runs"] == runs:
        return False
    line = {
        "time": time.time_ns() // 1_000_000,
        "runs": runs,
        "number_of_runs": sum(map(len, ledger.runs.values())),
        "claims": [
            {"claim": entry.claim.number, "verdict": entry.verdict, "seeds": entry.seeds,
             "looks": [look.seeds for look in entry.looks],
             "alpha_spent": sum(spent(look.seeds) for look in entry.looks),
             "p_sequential": entry.p._asdict(), "p_holm": entry.p_holm._asdict()}
            for entry in ledger.judged
        ],
    }  # fmt: skip
    text = "".join(json.dumps(look, allow_nan=False) + "\n" for look in (*earlier, line))
    write_whole(looks_file(ledger), text.encode())
    return True


def read_looks(path: Path) -> Iterator[dict[str, Any]]:
    """The recorded interim analyses, oldest first."""
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines())


def fingerprint(runs: Runs) -> str:
    """A hash of the analysed runs: equal only for the same runs with the same histories."""
    lines = sorted(f"{arm} {run.seed} {run.state} {run.history_sha256}" for arm, of in runs.items() for run in of)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
