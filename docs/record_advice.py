"""Write the answer of a finished `sweeper advise` into the documentation.

    python docs/record_advice.py HOME NAME ARGUMENT...

HOME is the SWEEPER_HOME of the advice NAME, and the arguments are those of the command that gave it. It is run again:
a finished advice trains nothing. Writes docs/results/advice-NAME.md and docs/images/advice-NAME.png.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.tracking.reading import read_events

DOCS = Path(__file__).parent


def provenance(events: list[Mapping[str, Any]]) -> Iterator[str]:
    """List the hardware, versions and images that a run used."""
    start = events[0]
    for name in ("hardware", "threads", "versions", "engine", "dataset_sha256"):
        yield f"- {name}: {start['tags'][f'sweeper.{name}']}"
    yield f"- commit: {start['tags'].get('mlflow.source.git.commit', 'none')}"
    for name in ("device", "precision"):
        yield f"- {name}: {start['params'][name]}"


def main(home: Path, name: str, *arguments: str) -> None:
    command = ["sweeper", "advise", *arguments]
    env = os.environ | {"SWEEPER_HOME": str(home), "COLUMNS": "120"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=home)
    said = "\n".join(line for line in done.stdout.splitlines() if str(home) not in line)
    folder = home / "journal" / f"advise-{name}"
    events = [read_events(path.parent) for path in sorted(folder.glob("comparison/*/events.jsonl"))]
    text = [
        f"# Advice: {name}", "", "Written by `docs/record_advice.py` from the runs of one command.", "",
        f"![The ranking](../images/advice-{name}.png)", "",
        "The tick marks are the seeds of the comparison. [How to read it](../how-to/advise.md#how-to-read-it).", "",
        "```console", f"$ {shlex.join(command)}", said, "```", "",
        "## Provenance", "", *provenance(events[0]), "",
    ]  # fmt: skip
    (DOCS / "results" / f"advice-{name}.md").write_text("\n".join(text))
    (DOCS / "images" / f"advice-{name}.png").write_bytes((folder / "advice/artifacts/ranking.png").read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
