"""`sweeper verify`: from the journal to the ledger, its files, and the record of interim analyses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import SweeperError
from sweeper.core.files import write_whole
from sweeper.replication.arms import ProtocolName
from sweeper.replication.claims.claims import CONTRADICTIONS, claims
from sweeper.replication.claims.ledger import (
    MOST_SEEDS,
    Detail,
    Judged,
    Runs,
    Verified,
    details,
    judge,
    look_at,
    reason,
)
from sweeper.replication.claims.looks import looks_file, record_look
from sweeper.replication.pages.ledger import ArmRow, Entry, Ledger
from sweeper.replication.pages.ledger_json import as_json
from sweeper.replication.runs import ArmRun, each, images, read_runs, starts, tag
from sweeper.replication.statistics.base import Shown
from sweeper.report.files import FOLDER
from sweeper.tracking.base import THREADS_TAG

if TYPE_CHECKING:
    from sweeper.report.page import Section


METHOD: Final = (
    "A claim is supported or contradicted if its p-value is at most 0.05 after Holm's correction over the 56 p-values "
    "of the ledger and the correction for interim analyses at 3, 5, 10, 20, ... seeds (see docs/verify.md). The "
    "interval is the 95 % interval without these corrections. An inconclusive claim names the seeds of each arm that "
    "would decide it with a power of 80 %, if the current estimates are the truth."
)
UNSEEN: Final = Shown("", "", "", 1, 0.0, math.nan, math.nan, math.nan, "", {})


def verify(journal: Path, protocol: ProtocolName) -> Verified:
    """Judge the claims by the runs in `journal`.

    Raises:
        SweeperError: there is no run.
    """
    runs = read_runs(journal, protocol)
    if not runs:
        raise SweeperError(
            f"no run of protocol {protocol} is recorded in {journal}; run sweeper reproduce --protocol {protocol}"
        )
    return judge_runs(journal, protocol, runs)


def judge_runs(journal: Path, protocol: ProtocolName, runs: Runs) -> Verified:
    """Judge the claims by `runs` of `journal`."""
    judged = judge(look_at(claims(protocol), runs, protocol))
    return Verified(journal, protocol, runs, judged, details(judged, runs))


def publish(env: Environment, found: Verified) -> tuple[Ledger, dict[str, Any]]:
    """Write the ledger to SWEEPER_HOME/report/PROTOCOL, and record the interim analysis.

    Returns:
        The ledger as its pages show it, and the JSON that `--json` prints.

    Raises:
        SweeperError: it cannot be written there.
    """
    from sweeper.replication.pages.ledger import forest, markdown
    from sweeper.replication.pages.ledger_page import html

    found = replace(found, runs=_known_here(env, found.runs))
    shown = describe(found, _links(env, found.runs))
    result = as_json(found, shown)
    folder = env.home / FOLDER / found.protocol
    picture = forest(shown)
    files = {
        "ledger.json": (json.dumps(result, indent=2, allow_nan=False) + "\n").encode(),
        "ledger.md": markdown(shown),
        "ledger.png": picture,
        "ledger.html": html(shown, picture),
    }
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise SweeperError(
            f"could not write the ledger to {folder} ({error.strerror}). Set SWEEPER_HOME to a writable folder."
        ) from None
    try:
        record_look(found)
    except OSError as error:
        file = looks_file(found)
        env.warn(f"could not save the interim analysis to {file} ({error.strerror}); no verdict depends on it")
    return shown, result | {"report": str(folder)}


def sections(env: Environment, protocol: ProtocolName, runs: Runs) -> list[Section]:
    """The ledger of `runs` as sections of the report of the reproduction."""
    from sweeper.replication.pages.ledger_page import ledger_sections

    runs = _known_here(env, runs)
    return ledger_sections(describe(judge_runs(env.journal, protocol, runs), _links(env, runs)))


def describe(found: Verified, links: Mapping[str, str]) -> Ledger:
    """The ledger as its pages show it."""
    pairs = zip(found.judged, found.details, strict=True)
    return Ledger(
        protocol=found.protocol,
        provenance=provenance(found.runs),
        entries=[_entry(judged, detail, found.runs) for judged, detail in pairs],
        arms=[
            ArmRow(arm, tuple((run.seed, run.run_id) for run in runs), sum(run.state == "diverged" for run in runs))
            for arm, runs in found.runs.items()
        ],
        contradictions=CONTRADICTIONS,
        links=links,
        method=METHOD,
    )


def _entry(judged: Judged, detail: Detail | None, runs: Runs) -> Entry:
    claim, shown = judged.claim, detail.shown if detail else UNSEEN
    arms = claim.question.arms
    tested = bool(judged.looked.looks)
    return Entry(
        number=claim.number, says=claim.says, question=claim.question.words, verdict=judged.verdict,
        reason=reason(detail, judged), label=shown.label, unit=shown.unit, direction=shown.direction,
        bound=shown.null, estimate=shown.estimate, low=shown.low, high=shown.high,
        p=min(judged.looked.p) if tested else math.nan, p_holm=min(judged.p_holm) if tested else math.nan,
        counts=shown.counts if detail else {arm: len(runs.get(arm, ())) for arm in arms},
        looks=tuple(look.seeds for look in judged.looked.looks), arms=arms, test=shown.method,
        takes=_takes(judged, detail), notes=claim.notes, also=detail.evidence.facts() if detail else {},
    )  # fmt: skip


def _takes(judged: Judged, detail: Detail | None) -> str:
    """The seeds that would decide an inconclusive claim, such as >1280; empty where no number can be estimated."""
    if judged.verdict != "inconclusive" or detail is None:
        return ""
    if detail.evidence.lacking(2) or not detail.evidence.premise_holds():
        return ""
    return str(detail.seeds_needed or f">{MOST_SEEDS}")


def provenance(runs: Runs) -> dict[str, str]:
    """Seeds, data set, device, hardware and versions, as recorded with the runs."""
    recorded = starts(runs)
    sizes = sorted({len(of_arm) for of_arm in runs.values()})
    picked = {
        "data set": tag("sweeper.dataset"),
        "images": images,
        "device": lambda start: f"{start['params'].get('device', '')} {start['params'].get('precision', '')}",
        "hardware": tag("sweeper.hardware"),
        "threads": tag(THREADS_TAG),
        "versions": tag("sweeper.versions"),
    }
    return {
        "seeds of an arm": f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        "runs": str(sum(len(of_arm) for of_arm in runs.values())),
        **{name: each(recorded, pick) or "not recorded" for name, pick in picked.items()},
    }


def _known_here(env: Environment, runs: Runs) -> dict[str, list[ArmRun]]:
    """The runs, without the MLflow run IDs of other stores than this command's."""
    from sweeper.tracking.store import hide_password

    store = hide_password(env.tracking_uri)
    return {arm: [r if r.store == store else r._replace(run_id=None) for r in of_arm] for arm, of_arm in runs.items()}


def _links(env: Environment, runs: Runs) -> dict[str, str]:
    """The address of each uploaded run in MLflow's UI; empty if MLflow cannot be reached."""
    known = [run.run_id for of_arm in runs.values() for run in of_arm if run.run_id]
    if not known or env.tracking_uri in (NONE, OFFLINE):
        return {}
    from sweeper.tracking.fetching import ui_link
    from sweeper.tracking.store import hide_password, preflight, sqlite_file

    uri = env.tracking_uri
    if uri.startswith("sqlite") and not sqlite_file(uri).exists():
        return {}
    try:
        preflight(uri)
    except SweeperError as error:
        env.warn(f"the ledger has no links to MLflow: {error}")
        return {}
    first = ui_link(hide_password(uri) if uri.startswith("http") else "http://127.0.0.1:5000", uri, known[0])
    return {run_id: first.replace(known[0], run_id) for run_id in known} if known[0] in first else {}
