"""Count what the fault suite has done, as lines of JSON in the file FAULTS_TALLY, and write the page from them.

python -m tests.faults.tools.tally TALLY docs/explanation/reliability.md
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PROMISES: Final = {
    "G1": "exactly N: `--trials N` ends with N finished trials, complete or pruned, whatever dies",
    "G2": "no metric is lost or doubled",
    "G3": "nothing stays RUNNING for ever, in the study or in MLflow",
    "G4": "running the same command again continues",
    "G5": "a second driver on one study refuses, at once and in one line",
    "G6": "an outage of the tracking server stops nothing and loses nothing",
    "G7": "a bad trial is a recorded fact",
    "G8": "files are whole or absent",
    "G9": "SIGINT and SIGTERM end within 10 s, with the right exit code, and leave nothing RUNNING",
}
BEGIN, END = "<!-- counts: written by make faults -->", "<!-- end of counts -->"
PROMPT_SECONDS: Final = 2.0


def note(entry: dict[str, Any]) -> None:
    """Add an entry if FAULTS_TALLY is set."""
    if "FAULTS_TALLY" in os.environ:
        with Path(os.environ["FAULTS_TALLY"]).open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def page(entries: list[dict[str, Any]]) -> str:
    """Return the counts as Markdown."""
    parts = [_circumstances(), _promises(entries), _signals(entries), _commands(entries), _fuzz(entries)]
    failed = [entry["failed"] for entry in entries if "failed" in entry]
    if failed:
        parts.append(f"{len(failed)} tests failed: {', '.join(f'`{name}`' for name in failed)}.")
    return "\n\n".join(parts)


def _circumstances() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlflow", "optuna", "torch"))
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return (
        f"Counted on {datetime.datetime.now(datetime.UTC).date().isoformat()}, "
        f"{found.group(1) if found else platform.processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}; load average at the end {os.getloadavg()[2]:.1f}."
    )


def _promises(entries: list[dict[str, Any]]) -> str:
    lines = ["| | promise | what was done | lost |", "|---|---|---|---|"]
    for promise, words in PROMISES.items():
        done, lost = Counter(), Counter()
        for entry in (entry for entry in entries if entry.get("promise") == promise):
            done.update(entry["done"])
            lost.update(entry["lost"])
        some = "; ".join(f"{name}: {n}" for name, n in lost.items() if n)
        shown = some or f"0 ({', '.join(lost)})"
        lines.append(f"| {promise} | {words} | {'; '.join(f'{name}: {n:,}' for name, n in done.items())} | {shown} |")
    return "\n".join(lines)


def _signals(entries: list[dict[str, Any]]) -> str:
    seconds = [entry["ended_s"] for entry in entries if "ended_s" in entry]
    if not seconds:
        return "No end after a signal was timed."
    return (
        f"From the signal to the end of the command: median {statistics.median(seconds):.1f} s, the slowest of "
        f"{len(seconds)} {max(seconds):.1f} s."
    )


def _commands(entries: list[dict[str, Any]]) -> str:
    seconds = {entry["row"]: entry["seconds"] for entry in entries if "row" in entry}
    if not seconds:
        return "No command with bad input was timed."
    late = {row: s for row, s in seconds.items() if s > PROMPT_SECONDS}
    slowest = max(seconds, key=seconds.__getitem__)
    return (
        f"Bad input: {len(seconds)} commands, each in a process of its own, two at a time: median "
        f"{statistics.median(seconds.values()):.1f} s from its start to its end, {len(late)} of them above "
        f"{PROMPT_SECONDS:.0f} s, the slowest {seconds[slowest]:.1f} s (`{slowest}`)."
    )


def _fuzz(entries: list[dict[str, Any]]) -> str:
    examples = [entry["examples"] for entry in entries if "examples" in entry]
    if not examples:
        return "No property was fuzzed."
    return f"Fuzz: {sum(examples):,} examples of {len(examples)} properties, each of which held."


def main() -> None:
    """Write the counts of the file of the first argument into the page of the second."""
    tally, path = (Path(argument) for argument in sys.argv[1:])
    entries = [json.loads(line) for line in tally.read_text().splitlines()]
    text = path.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{page(entries)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
