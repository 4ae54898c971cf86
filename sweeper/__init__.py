"""How should Batch Normalization and Dropout be combined in a network? Evidence, tracked in MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sweeper.sweep.xray import xray as xray

__version__ = "0.1.0"

PUBLIC: Final = {"xray": "sweeper.sweep.xray"}  # the module of each public name, imported when the name is first used


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
