"""Functions of the user's own code, named package.module:function or file.py:function."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.core.errors import UsageError, one_line


def load_function(name: str) -> Callable[..., Any]:
    """Run the module of the function `name`, and return the function.

    A package is imported as by `import`: it must be installed, or on PYTHONPATH. A file is run each time, apart from
    the modules that were imported; it can import what is installed, not its neighbours.

    Raises:
        UsageError: there is no such module, file or function, or the module raises an error.
    """
    place, _, function = name.rpartition(":")
    module = _run(source_of(name)) if place.endswith(".py") else _import(name, place)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"{name}: no function {function!r} in {getattr(module, '__file__', place)}")
    return found  # type: ignore[no-any-return]


def source_of(name: str) -> Path:
    """Return the absolute path of the Python file that defines the function `name`.

    Raises:
        UsageError: there is none.
    """
    place = name.rpartition(":")[0]
    file = Path(place) if place.endswith(".py") else _file_of(name, place)
    if not file.is_file():
        raise UsageError(f"{name}: {file.absolute()} is no file")
    return file.resolve()


def _run(source: Path) -> Any:
    """Run a file as a module of its name. Compiled here: a stale file of bytecode cannot stand in for it."""
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        exec(compile(source.read_bytes(), str(source), "exec"), vars(module))  # noqa: S102 - the user's code
    except Exception as error:
        raise UsageError(f"{source}: {type(error).__name__}: {one_line(error)}") from error
    return module


def _import(name: str, place: str) -> Any:
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise UsageError(
            f"{name}: {type(error).__name__}: {one_line(error)}. Install it, or set PYTHONPATH."
        ) from error


def _file_of(name: str, place: str) -> Path:
    try:
        spec = importlib.util.find_spec(place)
    except Exception as error:
        raise UsageError(f"{name}: {type(error).__name__}: {one_line(error)}") from error
    if spec is None or not spec.has_location or spec.origin is None:
        raise UsageError(
            f"{name}: no module {place!r} here. Install it, or set PYTHONPATH; a file is named FILE.py:NAME."
        )
    return Path(spec.origin)
