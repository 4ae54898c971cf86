"""`sweeper verify`: from the journal to the ledger, its files, and the record of looks."""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import StudyConflict, StudyIncomplete, SweeperError
from sweeper.core.files import write_whole
from sweeper.replication.arms import PROTOCOLS, ProtocolName
from sweeper.replication.claims.claims import CONTRADICTIONS, claims
from sweeper.replication.claims.ledger import (
    MOST_SEEDS,
    Detail,
    Judged,
    Runs,
    details,
    judge,
    lacking,
    look_at,
    reason,
)
from sweeper.replication.claims.next_runs import affordable, lines, steps
from sweeper.replication.pages.ledger import ArmRow, Entry, Ledger
from sweeper.replication.runs import DIVERGED, ArmRun, each, images, read_runs, starts, tag
from sweeper.replication.statistics.combine import Shown, facts
from sweeper.report.files import FOLDER
from sweeper.tracking.base import FINISHED, THREADS_TAG, RunInfo, Tracker
from sweeper.tracking.reading import read_events

if TYPE_CHECKING:
    from sweeper.report.page import Section
    from sweeper.sweep.choose import Chosen
from sweeper.replication.claims.ledger import Verified
from sweeper.replication.claims.looks import fingerprint, looks_file, record_look
from sweeper.replication.pages.ledger_json import as_json

METHOD: Final = (
    "A claim is supported or contradicted if its p-value is at most 0.05 after Holm's correction over the 56 p-values "
    "of the ledger and the correction for looking at 3, 5, 10, 20, ... seeds; docs/verify.md says how. The interval is "
    "that of 95 %, without these corrections. Detectable at 5 % is the distance from the bound that a single two-sided "
    "test at 5 % finds with power 80 %; detectable here, the one that this ledger finds with power 80 %. Where a "
    "number is claimed to lie between two bounds, it is how far from their middle it may lie to be "
    "shown so with power 80 %."
)
FINGERPRINT_TAG: Final = "sweeper.fingerprint"  # of the run that holds the report: of which runs it is
UNSEEN: Final = Shown("", "", "", 1, 0.0, math.nan, math.nan, math.nan, math.nan, "", {})


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
    """Judge the claims by `runs`, which `journal` holds."""
    judged = judge(look_at(claims(protocol), runs, protocol))
    return Verified(journal, protocol, runs, judged, details(judged, runs))


def publish(env: Environment, found: Verified) -> tuple[Ledger, dict[str, Any]]:
    """Write the ledger to SWEEPER_HOME/report/PROTOCOL, and record the look.

    Returns:
        What the pages show, and what `--json` prints.

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
        raise SweeperError(f"{folder}: the ledger cannot be written ({error.strerror}); set SWEEPER_HOME") from None
    try:
        record_look(found)
    except OSError as error:
        env.warn(f"the look is not recorded in {looks_file(found)}: {error.strerror}; verdicts do not depend on it")
    return shown, result | {"report": str(folder)}


def sections(env: Environment, protocol: ProtocolName, runs: Runs) -> list[Section]:
    """The ledger of `runs` as sections of the report of the reproduction."""
    from sweeper.replication.pages.ledger_page import ledger_sections

    runs = _known_here(env, runs)
    return ledger_sections(describe(judge_runs(env.journal, protocol, runs), _links(env, runs)))


def record_report(env: Environment, protocol: ProtocolName, tracker: Tracker) -> None:
    """Record the report of the reproduction, with the ledger, and its figures for print in a run of their own.

    It is the same run each time, and is left as it is where it has ended and is of these runs; the look is not counted.
    """
    from sweeper.replication.pages.page import reproduction_print, reproduction_report

    runs = read_runs(env.journal, protocol)
    folder = _summary(protocol)
    events = read_events(env.journal / folder)
    if not runs or _is_of(events, runs):
        return
    page = reproduction_report(runs, protocol, sections(env, protocol, runs))
    figures = reproduction_print(runs, protocol)
    tags = {"sweeper.kind": "study", "sweeper.study": PROTOCOLS[protocol].folder, "sweeper.protocol": protocol}
    info = RunInfo(
        key=events[0]["key"] if events else f"{uuid.uuid4().hex}/{folder}", name=PROTOCOLS[protocol].folder,
        folder=folder, params={"protocol": protocol}, tags=tags,
        description=f"The study's figures, numbers and claims beside ours, protocol {protocol}: "
                    f"{PROTOCOLS[protocol].title}. The runs are those with the tag `sweeper.protocol` = {protocol} and "
                    "`sweeper.kind` = run.",
    )  # fmt: skip
    log = tracker.start(info)
    log.artifact("report.html", page)
    log.artifact("figures-4-to-11.png", figures)
    states = [run.state for of_arm in runs.values() for run in of_arm]
    log.end(FINISHED, {f"study/{state}": float(states.count(state)) for state in ("complete", DIVERGED)},
            {"sweeper.state": "complete", FINGERPRINT_TAG: fingerprint(runs)})  # fmt: skip


def _summary(protocol: ProtocolName) -> str:
    """The folder of the run that holds the report, beside those of the arms."""
    return f"{PROTOCOLS[protocol].folder}/study"


def _is_of(events: Sequence[Mapping[str, Any]], runs: Runs) -> bool:
    """Whether the run that holds the report has ended, and was made from `runs`."""
    if not events or events[-1]["event"] != "end":
        return False
    return (events[-1]["status"], events[-1]["tags"].get(FINGERPRINT_TAG)) == (FINISHED, fingerprint(runs))


def settle(env: Environment, found: Verified, budget: float, workers: int) -> Verified:
    """Train what settles the claims that are nearest to being settled, record the report, and judge again.

    Args:
        env: its journal is that of `found`.
        found: what was judged before.
        budget: seconds; the forecast of what is trained is within it, and nothing is begun after it. With 0 nothing
            is recorded either.
        workers: processes that share the cores; with others than before, times are not comparable.

    Returns:
        What the runs come to that are recorded now; not all that were chosen, where some failed or the time was over.

    Raises:
        SweeperError: the recorded runs are of more than one data set, device or precision.
    """
    from sweeper.core.text import counted, duration
    from sweeper.engine.choice import EngineChoice
    from sweeper.replication.plan import Options
    from sweeper.replication.reproduce import check_failed, reproduce

    plan = steps(found.judged, found.details, found.runs)
    chosen = affordable(plan, budget * workers)
    for line in lines(plan, len(chosen)):
        env.say(line)
    runs = tuple(run for step in chosen for run in step.runs)
    if not runs:
        env.say("nothing is trained" + (f": the first would take {duration(plan[0].seconds)}" if plan else ""))
        if budget:
            _record_missing(env, found)
        return found
    options = Options(found.protocol, engine=EngineChoice(workers=workers), runs=runs, seconds=budget)
    incomplete = None
    try:
        result = reproduce(env, _machine(env, found), options, record_report)
        for run, why in result["failed"].items():
            env.warn(f"{run} failed: {why}")
        if result["recorded"] + len(result["failed"]) < len(runs):
            env.warn(f"the time was enough for {result['recorded']} of {counted(len(runs), 'planned run')}")
        check_failed(result)
    except StudyIncomplete as error:
        incomplete = error
    return replace(verify(found.journal, found.protocol), incomplete=incomplete)


def _record_missing(env: Environment, found: Verified) -> None:
    """Record the report where an earlier command was stopped before it had."""
    from sweeper.replication.reproduce import summarise_only

    events = read_events(env.journal / _summary(found.protocol))
    if env.tracking_uri != NONE and not _is_of(events, found.runs):
        with contextlib.suppress(StudyConflict):  # whoever trains records it
            summarise_only(env, found.protocol, record_report)


def _machine(env: Environment, found: Verified) -> Chosen:
    """The data set, device and precision of the recorded runs."""
    from sweeper.replication.reproduce import choose_machine

    params = [start["params"] for start in starts(found.runs)]
    kinds = {(p["dataset"], p["device"].partition(":")[0], p["precision"]) for p in params}
    if len(kinds) != 1:
        shown = "; ".join(" ".join(kind) for kind in sorted(kinds)) or "none"
        raise SweeperError(f"{found.journal}: runs of several kinds ({shown}): --plan continues those of one kind")
    return choose_machine(env, *kinds.pop())


# --- what is shown --------------------------------------------------------------------------------------


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
        takes=_takes(judged, detail), detectable=shown.detectable,
        detectable_here=detail.detectable if detail else math.nan, centre=shown.centre, notes=claim.notes,
        also=facts(detail.evidence) if detail else {},
    )  # fmt: skip


def _takes(judged: Judged, detail: Detail | None) -> str:
    """The seeds that would settle an inconclusive claim, in few characters; nothing where no spread is known yet."""
    if judged.verdict != "inconclusive" or detail is None or detail.without_premise or lacking(detail.evidence, 2):
        return ""
    return str(detail.seeds_needed or f">{MOST_SEEDS}")


def provenance(runs: Runs) -> dict[str, str]:
    """Seeds, data set, device, hardware and versions, as the runs' records have them."""
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
    """The runs, without the names that they have in another store than this command's."""
    from sweeper.tracking.store import hide_password

    store = hide_password(env.tracking_uri)
    return {arm: [r if r.store == store else r._replace(run_id=None) for r in of_arm] for arm, of_arm in runs.items()}


def _links(env: Environment, runs: Runs) -> dict[str, str]:
    """Where MLflow's UI shows the runs that were carried there; nothing where MLflow does not answer."""
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
