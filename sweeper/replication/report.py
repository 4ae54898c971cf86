"""`sweeper report --replication`: write the report of the reproduction, and its figures for print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper.core.environment import Environment
from sweeper.replication.article import Article, ProtocolName
from sweeper.replication.pages.page import finished_runs
from sweeper.replication.verify import report
from sweeper.report.files import report_path, write_report


def write_reproduction_report(
    env: Environment, article: Article, protocol: ProtocolName | None, output: Path | None
) -> dict[str, Any]:
    """Write the report, and return the JSON that `--json` prints. The default protocol is the one that has runs.

    Raises:
        UsageError: no run of the protocol has finished.
        SweeperError: a file cannot be written.
    """
    of, runs = finished_runs(env, article, protocol)
    name = of.folder
    page, print_figures = report(env, of, runs)
    path = (output or report_path(env, name)).absolute()
    write_report(path, page)
    env.say(f"report of {name!r}: {path} ({len(page) / 1e6:.1f} MB)")
    figures = path.with_suffix(".png")
    write_report(figures, print_figures)
    env.say(f"figures for print: {figures}")
    return {"study": name, "report": str(path), "bytes": len(page), "figures": str(figures)}
