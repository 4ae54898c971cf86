"""`python -m sweeper.server.mlflow OPTION…`: `mlflow server OPTION…` in one process, where MLflow runs it in two.

`mlflow server` starts the process that serves, and waits for its end with all of MLflow in memory: 200 MB that do
nothing but forward signals. Here that process becomes the one that serves. It relies on a function of MLflow that is
not public; with a release that has none of that name, there are two processes as before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def replace_process(command: Sequence[Any], *, extra_env: Mapping[str, str], **_: Any) -> None:
    """Run `command` in place of this program, with more variables; no return."""
    os.execvpe(str(command[0]), [*map(str, command)], {**os.environ, **extra_env})  # noqa: S606 - no shell is wanted


def main() -> None:
    """Serve until a signal ends the process."""
    import mlflow.server
    from mlflow.cli import cli

    if hasattr(mlflow.server, "_exec_cmd"):
        mlflow.server._exec_cmd = replace_process
    cli(["server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
