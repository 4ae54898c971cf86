"""Read which schemas of its database the installed MLflow knows, without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

MIGRATIONS: Final = "store/db_migrations/versions"  # in MLflow's package


@cache
def mlflow_revisions() -> tuple[set[str], set[str]]:
    """Return all revisions of its schema that the installed MLflow knows, and the newest; nothing without MLflow."""
    spec = importlib.util.find_spec("mlflow")
    folders = (spec.submodule_search_locations if spec else None) or []
    return revisions(Path(folders[0]) / MIGRATIONS) if folders else (set(), set())


def revisions(folder: Path) -> tuple[set[str], set[str]]:
    """Return all revisions that a folder of Alembic's migrations knows, and those that no other follows.

    The files are read, not imported as Alembic does it: those of MLflow import MLflow, which takes seconds and 120 MB.
    """
    known: set[str] = set()
    followed: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                name = target.id if isinstance(target, ast.Name) else ""
                if name in ("revision", "down_revision"):
                    value = ast.literal_eval(node.value)
                    (known if name == "revision" else followed).update(
                        [value] if isinstance(value, str) else value or []
                    )
    return known, known - followed
