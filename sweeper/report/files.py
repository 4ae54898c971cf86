"""The reports: from what a study, or the reproduction, left in stores and journals to one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sweeper.arms import PROTOCOLS, ProtocolName
from sweeper.environment import Environment
from sweeper.errors import SweeperError, UsageError
from sweeper.journal import write_whole

if TYPE_CHECKING:
    from sweeper.mistakes import Mistake
    from sweeper.report.page import Section
    from sweeper.report.rows import ArmRun
    from sweeper.report.sweep_rows import Sweep
    from sweeper.study import StudyRecord

FOLDER: Final = "report"  # of SWEEPER_HOME


def report_path(env: Environment, name: str) -> Path:
    """Where the report of a study lies if no other place is named."""
    return env.home / FOLDER / f"{name}.html"


def write_report(path: Path, page: bytes) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        SweeperError: it cannot be written there.
    """
    try:
        write_whole(path, page)
    except OSError as error:
        raise SweeperError(f"report {path}: {error.strerror}; name another place with --output") from None


def sweep_report(env: Environment, record: StudyRecord, prints: Mapping[str, bytes] | None = None) -> bytes:
    """The report of a sweep; `prints` are its figures for print, where they have been drawn already."""
    from sweeper.report import sweep_page

    sweep = _sweep(env, record)
    return sweep_page.sweep_page(sweep, sweep_page.prints(sweep) if prints is None else prints)


def sweep_prints(env: Environment, record: StudyRecord) -> tuple[dict[str, bytes], bytes]:
    """The figures of a sweep for print, by the names of their files, and the table of its trials as CSV."""
    from sweeper.report.sweep_page import prints
    from sweeper.report.sweep_tables import trials_csv

    sweep = _sweep(env, record)
    return prints(sweep), trials_csv(sweep)


def _sweep(env: Environment, record: StudyRecord) -> Sweep:
    from sweeper.report.sweep_rows import read_sweep

    return read_sweep(record, env.journal)


def errors_picture(mistakes: list[Mistake]) -> bytes:
    """The errors that a champion was surest of."""
    from sweeper.report.errors import errors

    return errors(mistakes, "The champion's errors")


def recorded_protocol(env: Environment) -> ProtocolName:
    """The protocol that has finished runs; full if both have, or neither."""
    from sweeper.report.rows import read_runs

    return next((name for name in PROTOCOLS if read_runs(env.journal, name)), "full")


def finished_runs(env: Environment, protocol: ProtocolName) -> Mapping[str, list[ArmRun]]:
    """The runs that the report of the reproduction shows, by arm.

    Raises:
        UsageError: no run of `protocol` has finished.
    """
    from sweeper.report.rows import read_runs

    runs = read_runs(env.journal, protocol)
    if not runs:
        raise UsageError(
            f"{env.journal / PROTOCOLS[protocol].folder}: no finished run of protocol {protocol}; run "
            f"`sweeper reproduce --protocol {protocol}` first"
        )
    return runs


def reproduction_report(
    runs: Mapping[str, list[ArmRun]], protocol: ProtocolName, ledger: Sequence[Section] = ()
) -> bytes:
    """The report of the reproduction; `ledger` judges the study's claims, where they have been judged."""
    from sweeper.report.study_page import study_page

    return study_page(runs, PROTOCOLS[protocol], ledger)


def reproduction_print(runs: Mapping[str, list[ArmRun]], protocol: ProtocolName) -> bytes:
    """The study's eight figures as one PNG image."""
    from sweeper.report.study_print import study_print

    return study_print(runs, PROTOCOLS[protocol])
