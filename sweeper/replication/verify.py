"""`sweeper verify`: from the journal to the ledger, its files, and the record of interim analyses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import SweeperError
from sweeper.core.files import write_whole
from sweeper.replication.article import DEFAULT, Reproduction
from sweeper.replication.claims.ledger import Ledger, Runs, judge
from sweeper.replication.claims.looks import looks_file, record_look
from sweeper.replication.runs import no_runs, read_runs
from sweeper.report.files import FOLDER


def verify(journal: Path, of: Reproduction, *, empty: bool = False) -> Ledger:
    """Judge the claims by the runs in `journal`.

    Raises:
        SweeperError: there is no run, and the ledger may not be `empty`.
    """
    runs = read_runs(journal, of)
    if not runs and not empty:
        raise SweeperError(no_runs(journal, of))
    return judge_runs(journal, of, runs)


def judge_runs(journal: Path, of: Reproduction, runs: Runs) -> Ledger:
    """Judge the claims by `runs` of `journal`."""
    return Ledger(journal, of, runs, judge(of.claims(), runs, of))


def publish(env: Environment, ledger: Ledger) -> tuple[Ledger, dict[str, Any]]:
    """Write the ledger to SWEEPER_HOME/report/LABEL, and record the interim analysis.

    Returns:
        The ledger with links to MLflow, and the JSON that `--json` prints.

    Raises:
        SweeperError: it cannot be written there.
    """
    from sweeper.replication.pages.ledger import forest, markdown
    from sweeper.replication.pages.ledger_json import as_json
    from sweeper.replication.pages.ledger_page import html

    ledger = linked(env, ledger)
    result, picture = as_json(ledger), forest(ledger)
    folder = env.home / FOLDER / ledger.of.label
    files = {
        "ledger.json": (json.dumps(result, indent=2, allow_nan=False) + "\n").encode(),
        "ledger.md": markdown(ledger),
        "ledger.png": picture,
        "ledger.html": html(ledger, picture),
    }
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise SweeperError(
            f"could not write the ledger to {folder} ({error.strerror}). Set SWEEPER_HOME to a writable folder."
        ) from None
    try:
        record_look(ledger)
    except OSError as error:
        file = looks_file(ledger)
        env.warn(f"could not save the interim analysis to {file} ({error.strerror}); no verdict depends on it")
    return ledger, result | {"report": str(folder)}


def report(env: Environment, of: Reproduction, runs: Runs) -> tuple[bytes, bytes]:
    """Return the report of a reproduction, with the ledger of `runs`, and its figures for print.

    Judging the claims here does not count as an interim analysis.
    """
    from sweeper.replication.pages.ledger import forest
    from sweeper.replication.pages.ledger_page import ledger_sections
    from sweeper.replication.pages.page import article_page
    from sweeper.replication.pages.print import article_print

    ledger = linked(env, judge_runs(env.journal, of, runs))
    print_figures = article_print(runs, of.name) if of.article.name == DEFAULT else forest(ledger)
    return article_page(runs, of, ledger_sections(ledger)), print_figures


def linked(env: Environment, ledger: Ledger) -> Ledger:
    """The ledger with links to the runs in this command's store, and without the run IDs of other stores.

    The links are empty if MLflow cannot be reached.
    """
    from sweeper.tracking.store import hide_password

    store = hide_password(env.tracking_uri)
    runs = {
        arm: [run if run.store == store else run._replace(run_id=None) for run in of_arm]
        for arm, of_arm in ledger.runs.items()
    }
    ids = [run.run_id for of_arm in runs.values() for run in of_arm if run.run_id]
    return replace(ledger, runs=runs, links=_links(env, ids) if ids else {})


def _links(env: Environment, ids: list[str]) -> dict[str, str]:
    """The addresses of runs in MLflow's UI."""
    from sweeper.tracking.fetching import ui_link
    from sweeper.tracking.store import hide_password, preflight, sqlite_file

    uri = env.tracking_uri
    if uri in (NONE, OFFLINE) or (uri.startswith("sqlite") and not sqlite_file(uri).exists()):
        return {}
    try:
        preflight(uri, env.experiment)
    except SweeperError as error:
        env.warn(f"the ledger has no links to MLflow: {error}")
        return {}
    first = ui_link(
        hide_password(uri) if uri.startswith("http") else "http://127.0.0.1:5000",
        uri,
        ids[0],
        experiment=env.experiment,
    )
    return {run_id: first.replace(ids[0], run_id) for run_id in ids} if ids[0] in first else {}
