"""A function of the user's own, named as `package.module:function` or `file.py:function`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import runpy
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sweeper.core.errors import SweeperError, UsageError, one_line

FUNCTION: Final = re.compile(r"([\w.]+|.+\.py):[A-Za-z_]\w*")


def absolute(name: str) -> str:
    """Return `name` with the absolute path of its file, if it names one, so that it holds in any folder."""
    module, _, function = name.rpartition(":")
    return f"{absolute_path(module)}:{function}" if _is_file(module) else name


def absolute_path(path: str) -> str:
    """Return a path from the root, without `~` and `..`."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - a Path keeps its `..`


def load_function(name: str) -> Callable[..., Any]:
    """Run the file, or import the module, and return the function.

    The code of a file runs again at each call, under a name that no module has. So nothing else imports it, and it
    does not find the files next to it.

    Raises:
        UsageError: there is no such file, module or function.
        SweeperError: the code failed; one line with the file and the line.
    """
    module, _, function = name.rpartition(":")
    path = source_of(name)
    with explained(name):
        if _is_file(module):
            found = runpy.run_path(str(path), run_name=f"<{path.name}>")
        else:
            found = vars(importlib.import_module(module))
    if not callable(found.get(function)):
        raise UsageError(f"{path} has no function {function!r}. Name one that it defines.")
    loaded: Callable[..., Any] = found[function]
    return loaded


def source_of(name: str) -> Path:
    """Return the file that holds the function.

    Raises:
        UsageError: there is no such file or module.
        SweeperError: the package of the module failed.
    """
    module = name.rpartition(":")[0]
    if _is_file(module):
        path = Path(absolute_path(module))
        if not path.is_file():
            raise UsageError(f"{path}: no such file. Name a function as file.py:function.")
        return path
    with explained(name):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # of a package above it
            spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        raise UsageError(
            f"{name[:200]}: no module {module!r} is installed. Install it, or name a function as file.py:function."
        )
    return Path(spec.origin)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Raise an error of the user's code in this block as one line: its file, the line, and the error.

    Raises:
        SweeperError: the code failed, or wanted to end the process.
    """
    try:
        yield
    except SweeperError:
        raise
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        what = f"{kind}: {one_line(error)}" if str(error) else kind
        raise SweeperError(f"{name[:200]} failed{_line(name, error)}: {what}") from error


def _line(name: str, error: BaseException) -> str:
    """Return the last line of the user's file that ran."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno} of {error.filename}"
    with contextlib.suppress(Exception):
        source = str(source_of(name))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        return f" in line {lines[-1]} of {source}"
    return ""


def _is_file(module: str) -> bool:
    return module.endswith(".py")
