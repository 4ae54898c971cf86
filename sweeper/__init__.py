"""Find out how Batch Normalization and Dropout should be combined in a network, with every run in MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sweeper.advice.api import advise as advise
    from sweeper.core import errors as errors
    from sweeper.core.experiments import experiment as experiment
    from sweeper.sweep.api import load_study as load_study
    from sweeper.sweep.api import optimize as optimize
    from sweeper.sweep.api import replay as replay
    from sweeper.sweep.api import train as train
    from sweeper.sweep.xray import xray as xray

__version__ = "0.2.0"

PUBLIC: Final = {  # the module of each public name, imported when the name is first used
    "advise": "sweeper.advice.api",
    "errors": "sweeper.core.errors",  # itself
    "experiment": "sweeper.core.experiments",
    "load_study": "sweeper.sweep.api",
    "optimize": "sweeper.sweep.api",
    "replay": "sweeper.sweep.api",
    "train": "sweeper.sweep.api",
    "xray": "sweeper.sweep.xray",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(PUBLIC[name])
    return module if name == "errors" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
