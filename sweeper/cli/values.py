"""The types of the values that options and arguments take."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from sweeper.cli.speak import warn
from sweeper.core.environment import JOURNAL
from sweeper.core.errors import UsageError
from sweeper.core.names import NAME, TAKEN
from sweeper.core.text import parse_duration


class Count(click.IntRange):
    """A whole number within bounds."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the name of the value in --help."""
        return "N"


class OrAuto(click.ParamType[Any]):
    """A value of another type, or the word auto, which becomes None."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return None for auto, else the value converted by the inner type."""
        return None if value == "auto" else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the name of the value in --help."""
        return self.inner.get_metavar(param, ctx) or self.inner.name.upper()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete like the inner type."""
        return self.inner.shell_complete(ctx, param, incomplete)


class EngineName(click.Choice[str]):
    """The name of an engine. `fused`, the former name of `gpu`, is accepted with a warning."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the current name."""
        if value == "fused":
            warn("--engine fused is now --engine gpu. Use the new name.")
            return "gpu"
        return super().convert(value, param, ctx)


class Split(click.Choice[str]):
    """The name of a split. `blog`, the former name of `test`, is accepted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the current name."""
        return super().convert("test" if value == "blog" else value, param, ctx)


class Number(click.FloatRange):
    """A finite number. Click alone accepts nan within any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and inf."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the name of the value in --help."""
        return "X"


class Dataset(click.ParamType[Any]):
    """The name of a data set."""

    name = "dataset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name with absolute paths; `auto` is unchanged."""
        from sweeper.core.dataset import check_dataset

        try:
            return "auto" if value == "auto" else check_dataset(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of data sets, and files."""
        from sweeper.core.dataset import NAMED

        named = [CompletionItem(name) for name in NAMED if name.startswith(incomplete)]
        return named or [CompletionItem(incomplete, type="file")]


class Experiment(click.ParamType[Any]):
    """The number of one of the article's eight experiments."""

    name = "1-8"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail with a list of the eight."""
        from sweeper.core.experiments import EXPERIMENT_TITLES

        if str(value) not in map(str, EXPERIMENT_TITLES):
            listing = "; ".join(f"{n} {title}" for n, title in EXPERIMENT_TITLES.items())
            self.fail(f"{value!r} is not an experiment. The eight are: {listing}.", param, ctx)
        return int(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the numbers, each with its title."""
        from sweeper.core.experiments import EXPERIMENT_TITLES

        titles = {str(number): title for number, title in EXPERIMENT_TITLES.items()}
        return [CompletionItem(number, help=title) for number, title in titles.items() if number.startswith(incomplete)]


class Experiments(click.ParamType[Any]):
    """Numbers of the article's eight experiments, such as 1,6-8."""

    name = "1,6-8"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers in ascending order, or fail with a list of the eight."""
        from sweeper.replication.articles.learnopencv import parse_experiments

        try:
            return parse_experiments(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class ModelArgument(click.ParamType[Any]):
    """An argument of the network's factory, such as width=32."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the name and the value: a number, boolean or quoted string if it parses as one, else text."""
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r} is not NAME=VALUE, such as width=32", param, ctx)
        try:
            found = json.loads(text, parse_constant=str)
        except ValueError:
            return name, text
        return name, found if isinstance(found, bool | int | float | str) else text


class Varied(click.ParamType[Any]):
    """A dimension of a search space, such as lr=1e-4..1e-2:log."""

    name = "NAME=VALUES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name of the field, and its values as text."""
        name, equals, text = str(value).partition("=")
        if not equals or not text:
            self.fail(f"{value!r} is not NAME=VALUES, such as lr=1e-4..1e-2:log or placement=bn,bn-dropout", param, ctx)
        return name.replace("-", "_"), text


class StudyName(click.ParamType[Any]):
    """The name of a study. Completion lists those with a journal in SWEEPER_HOME, without loading a library."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of recorded studies."""
        folder = Path(os.environ.get("SWEEPER_HOME") or ".") / JOURNAL
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        studies = (name for name in names if NAME.fullmatch(name) and not TAKEN.fullmatch(name))
        return [CompletionItem(name) for name in studies if name.startswith(incomplete)]


class Duration(click.ParamType[Any]):
    """A time such as 90s, 30m or 2h, in seconds."""

    name = "time"

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, the unit of a bare number."""
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self.positive and not seconds:
            self.fail(f"{value!r} is not above 0. Use a time such as 90s, 30m or 2h.", param, ctx)
        return seconds
