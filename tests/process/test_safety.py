"""What no part of the package may do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sweeper

UNPICKLING = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "cloudpickle.loads"}


def named(tree: ast.AST) -> Iterator[str]:
    """Every MODULE.NAME that is used or imported in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_pickle_is_read_but_from_our_own_child_processes():
    root = Path(sweeper.__file__).parent
    used = {(str(p.relative_to(root)), n) for p in root.rglob("*.py") for n in named(ast.parse(p.read_text()))}
    assert ("engine/forkserver.py", "pickle.dumps") in used
    assert {(path, name) for path, name in used if name in UNPICKLING} == {
        ("engine/aside.py", "pickle.loads"),
        ("engine/forkserver.py", "pickle.loads"),
        # In the process of whoever loads a registered model, as MLflow's pytorch flavour does; sweeper never calls it.
        ("training/champion_pyfunc.py", "torch.load"),
        ("training/networks/weights.py", "torch.load"),  # of a file that the user names, with weights_only
    }
