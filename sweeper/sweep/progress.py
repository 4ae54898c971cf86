"""Show the progress of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO

from sweeper.core.intervals import limits
from sweeper.core.metric import ACCURACY, Metric
from sweeper.core.text import counted, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from sweeper.core.environment import Environment
    from sweeper.core.results import EpochResult
    from sweeper.core.trial import Trial
    from sweeper.study.evidence import Standing

KERNEL: Final = "JPY_PARENT_PID"  # set where a cell starts a command, whose output cannot be redrawn
REFRESH_SECONDS: Final = 0.25
NARROW: Final = 110  # columns, below which the live table leaves out what is not needed


@dataclass
class Line:
    """A running trial as the live table shows it."""

    trial: Trial
    since: float
    last: EpochResult | None = None

    def cells(self, metrics: Sequence[Metric]) -> list[str]:
        """The epoch, and the values of its metrics."""
        epochs, last = self.trial.config.epochs, self.last
        if last is None:
            return [f"0/{epochs}", *["" for _ in metrics]]
        return [f"{last.epoch}/{epochs}", *[f"{metric.of(last):.4f}" for metric in metrics]]

    def pace(self) -> list[str]:
        """The training images per second, and the time since its start."""
        images = f"{self.last.images_per_s:,.0f}" if self.last else ""
        return [images, duration(time.monotonic() - self.since)]


@dataclass
class Progress:
    """The progress of a sweep, which the views show."""

    target: int
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    leader: Callable[[], Standing | None] = lambda: None  # the best so far, named by the number of its first trial
    unit: str = "trial"
    since: float = field(default_factory=time.monotonic)
    running: dict[int, Line] = field(default_factory=dict)
    at_start: int = 0
    metric: Metric = ACCURACY  # that trials are judged by
    pruned_as: str = "pruned"  # the word for a trial that was pruned

    def started(self, trial: Trial) -> None:
        """Add a running trial."""
        self.running[trial.number] = Line(trial, time.monotonic())

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Keep the last epoch of a trial."""
        self.running[trial.number].last = result

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """Count a trial that has ended."""
        self.running.pop(trial.number, None)
        self.finished += outcome in ("complete", "pruned")
        self.pruned += outcome == "pruned"
        self.failed += outcome == "failed"

    def label(self, trial: Trial) -> str:
        """Describe a trial's configuration in a few words."""
        c = trial.config
        rates = [f"conv {c.conv_dropout:.2f}"] if c.conv_dropout else []
        rates += [f"head {c.head_dropout:.2f}"] if c.head_dropout else []
        seed = [f"seed {c.seed}"] if trial.repetition else []
        arguments = [f"{name} {value}" for name, value in c.model_args]
        return " ".join([c.model_name, *arguments, c.placement.value, *rates, f"batch {c.batch_size}", *seed])

    def word(self, outcome: str) -> str:
        """Return the word for an outcome."""
        return self.pruned_as if outcome == "pruned" else outcome

    def seconds_left(self) -> float | None:
        """Estimate the time to the last trial from the pace so far; None before there is one."""
        fractions = [line.last.epoch / line.trial.config.epochs for line in self.running.values() if line.last]
        done = self.finished - self.at_start + sum(fractions)
        if done <= 0:
            return None
        return max(0.0, (self.target - self.finished - sum(fractions)) * self.elapsed() / done)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.since

    def summary(self) -> str:
        """Summarise counts, the best value and time left in one line."""
        parts = [f"{self.finished}/{counted(self.target, self.unit)} finished"]
        parts += [f"{self.pruned} {self.pruned_as}"] if self.pruned else []
        parts += [f"{self.failed} failed"] if self.failed else []
        name = "best" if self.metric == ACCURACY else f"best {self.metric.label}"
        parts += [f"{name} {in_short(best)}"] if (best := self.leader()) else []
        left = self.seconds_left()
        parts += [f"about {duration(left)} left"] if left is not None and self.finished < self.target else []
        return ", ".join(parts)


def _result(value: float | None, reason: str) -> str:
    """Return the value of a trial, or the reason why it was lost, to print after its outcome."""
    return f" ({reason})" if reason else "" if value is None else f" {value:.4f}"


class PlainView:
    """A line for each trial that ends; with `epochs`, and for a single run, also for each epoch."""

    def __init__(self, progress: Progress, stream: TextIO, *, epochs: bool = False) -> None:
        self._progress, self._stream = progress, stream
        self._epochs = epochs or progress.target == 1

    def started(self, trial: Trial) -> None:
        """Print its configuration, if its epochs follow."""
        self._progress.started(trial)
        if self._epochs:
            self._print(f"{self._named(trial)}{self._progress.label(trial)}")

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Print an epoch."""
        self._progress.epoch(trial, result)
        if self._epochs:
            self._print(
                f"{self._named(trial)}epoch {result.epoch}/{trial.config.epochs}  "
                f"val accuracy {result.val_accuracy:.4f}, loss {result.val_loss:.4f}; "
                f"train accuracy {result.train_accuracy:.4f}, loss {result.train_loss:.4f}; "
                f"{result.images_per_s:,.0f} images/s"
            )

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        """Print a trial of several, and any that was lost."""
        self._progress.ended(trial, outcome, value)
        if self._progress.target > 1 or reason:
            shown = _result(value, reason)
            what = f"{self._progress.unit} {trial.number}: {self._progress.word(outcome)}{shown}"
            self._print(f"{what}  [{self._progress.label(trial)}]  {self._progress.summary()}")

    def say(self, words: str) -> None:
        """Print a line."""
        self._print(words)

    def tick(self) -> None:
        """No-op: plain lines are never redrawn."""

    def close(self) -> None:
        """No-op: nothing is open."""

    def _named(self, trial: Trial) -> str:
        return "" if self._progress.target == 1 else f"{self._progress.unit} {trial.number}: "

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except OSError as error:  # it does not name the stream
            raise OSError(error.errno, error.strerror, self._stream.name) from None


class LiveView:
    """A table of the running trials, redrawn in place, with the ended trials above it."""

    def __init__(self, progress: Progress, console: Console) -> None:
        from rich.live import Live

        self._progress, self._console = progress, console
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._table)
        self._live.start()
        self._drawn = 0.0

    def started(self, trial: Trial) -> None:
        """Add a row."""
        self._progress.started(trial)
        self._draw()

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """Update a row."""
        self._progress.epoch(trial, result)
        self._draw()

    def ended(self, trial: Trial, outcome: str, value: float | None, reason: str = "") -> None:
        """Print a trial of several, and any that was lost, above the table."""
        self._progress.ended(trial, outcome, value)
        if self._progress.target > 1 or reason:
            from rich.markup import escape

            style = {"complete": "green", "pruned": "yellow"}.get(outcome, "red")
            shown = escape(_result(value, reason))
            what = f"{self._progress.unit} {trial.number:>3} [{style}]{self._progress.word(outcome):<8}[/]{shown}"
            line = f"{what}  {self._progress.label(trial)}"
            self._console.print(line, no_wrap=not reason, overflow=None if reason else "ellipsis")
        self._draw()

    def say(self, words: str) -> None:
        """Print a line above the table."""
        self._console.print(words, highlight=False, markup=False)

    def tick(self) -> None:
        """Redraw, but not too often."""
        if time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._draw()

    def close(self) -> None:
        """Leave the last table on the screen."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.refresh()

    def _table(self) -> RenderableType:
        """A line for each running trial, and the summary."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress, narrow = self._progress, self._console.width < NARROW
        foot = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=progress.target, completed=progress.finished, width=10 if narrow else 30)
        foot.add_row(bar, progress.summary())
        if not progress.running:
            return foot
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        metrics = progress.metric.with_others[: 2 if narrow else None]
        labels = [metric.label for metric in metrics] + ([] if narrow else ["images/s", "running"])
        for column in (progress.unit, "configuration", "epoch", *labels):
            flexible = column == "configuration"  # and cut, where there is no room
            table.add_column(column, justify="left" if flexible else "right", no_wrap=not flexible)
        models = {line.trial.config.model_name for line in progress.running.values()}
        known = f"{models.pop()} " if narrow and len(models) == 1 else ""
        for number, line in sorted(progress.running.items()):
            label = Text(progress.label(line.trial).removeprefix(known), no_wrap=True, overflow="ellipsis")
            table.add_row(str(number), label, *line.cells(metrics), *([] if narrow else line.pace()))
        return Group(table, foot)


def make_view(progress: Progress, env: Environment) -> PlainView | LiveView:
    """Return a live table on a terminal and, with ipywidgets, in a notebook; else plain lines.

    Where stdout is for JSON, lines go to stderr.
    """
    if not env.progress:
        return PlainView(progress, io.StringIO())
    if env.json_output:
        return PlainView(progress, sys.stderr, epochs=env.verbose)
    from rich.console import Console

    console = Console()
    if console.is_jupyter:  # rich redraws the table in a widget
        live = importlib.util.find_spec("ipywidgets") is not None
    else:
        live = sys.stdout.isatty() and KERNEL not in os.environ
    if live and not env.verbose:
        return LiveView(progress, console)
    return PlainView(progress, sys.stdout, epochs=env.verbose)


def in_short(best: Standing) -> str:
    """Return the value of a configuration, named by its first trial."""
    if best.n == 1:  # the interval would rest on the seeds of other configurations
        return f"{best.shrunken:.4f} (trial {best.key})"
    return f"{best.shrunken:.4f}{limits(best.low, best.high)} (trial {best.key}, {best.n} seeds)"


def accuracy_beside(metric: Metric, scores: Mapping[str, float]) -> str:
    """Return the accuracy of a configuration, after its value of another metric; nothing after itself."""
    return "" if metric == ACCURACY else f", accuracy {scores[ACCURACY.key]:.4f}"


def in_words(params: Mapping[str, Any]) -> str:
    """Return a trial's parameters as one line."""
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
