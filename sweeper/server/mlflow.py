"""`python -m sweeper.server.mlflow OPTION…`: `mlflow server OPTION…` in one process instead of two.

`mlflow server` starts the process that serves and waits for it with all of MLflow in memory: 200 MB that only forward
signals. Here the first process becomes the one that serves. It replaces a function of MLflow that is not public; in a
release without it, there are two processes as before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def replace_process(command: Sequence[Any], *, extra_env: Mapping[str, str], **_: Any) -> None:
    """Replace this program with `command`, with extra variables; does not return."""
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
