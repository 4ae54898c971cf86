"""What a person sees of a sweep: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from sweeper.core.results import EpochResult
    from sweeper.core.trial import Trial
    from sweeper.study.reading import StudyView
    from sweeper.study.rows import TrialRow
from sweeper.core.text import duration

REFRESH_SECONDS: Final = 0.25


@dataclass
class _Line:
    """One running trial as it is shown."""

    trial: Trial
    since: float
    last: EpochResult | None = None


@dataclass
class Progress:
    """What is known of a sweep's progress; the views show it."""

    target: int
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    best: tuple[float, int] | None = None  # accuracy, trial
    unit: str = "trial"
    since: float = field(default_factory=time.monotonic)
    running: dict[int, _Line] = field(default_factory=dict)
    at_start: int = 0

    def started(self, trial: Trial) -> None:
        """A trial begins."""
        self.running[trial.number] = _Line(trial, time.monotonic())

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """An epoch has ended."""
        self.running[trial.number].last = result

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """A trial is over."""
        self.running.pop(trial.number, None)
        self.finished += outcome in ("complete", "pruned")
        self.pruned += outcome == "pruned"
        self.failed += outcome == "failed"
        if outcome == "complete" and value is not None and (self.best is None or value > self.best[0]):
            self.best = value, trial.number

    def label(self, trial: Trial) -> str:
        """A trial in a few words."""
        return label(trial)

    def word(self, outcome: str) -> str:
        """What an outcome is called here."""
        return outcome

    def seconds_left(self) -> float | None:
        """Expected time to the last trial, from the pace so far; None before there is one."""
        fractions = [line.last.epoch / line.trial.config.epochs for line in self.running.values() if line.last]
        done = self.finished - self.at_start + sum(fractions)
        if done <= 0:
            return None
        return max(0.0, (self.target - self.finished - sum(fractions)) * self.elapsed() / done)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.since

    def summary(self) -> str:
        """One line: how far, how good, how long."""
        parts = [f"{self.finished}/{self.target} {self.unit}s finished"]
        parts += [f"{self.pruned} pruned"] if self.pruned else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"best {self.best[0]:.4f} (trial {self.best[1]})"] if self.best and self.unit == "trial" else []
        left = self.seconds_left()
        parts += [f"about {duration(left)} left"] if left is not None and self.finished < self.target else []
        return ", ".join(parts)


def label(trial: Trial) -> str:
    """A trial's configuration in a few words."""
    c = trial.config
    rates = [f"conv {c.conv_dropout:.2f}"] if c.conv_dropout else []
    rates += [f"head {c.head_dropout:.2f}"] if c.head_dropout else []
    same = [] if trial.twin is None else [f"= trial {trial.twin}"]
    return " ".join([c.model, c.placement.value, *rates, f"batch {c.batch_size}", *same])


class PlainView:
    """A line for each trial that ends, and for each epoch when there is one trial alone."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress, self._stream = progress, stream

    def started(self, trial: Trial) -> None:
        """Say nothing: most trials end soon enough."""
        self._progress.started(trial)
        if self._progress.target == 1:
            self._say(self._progress.label(trial))

    def epoch(self, trial: Trial, result: EpochResult) -> None:
        """A line an epoch, for a single run."""
        self._progress.epoch(trial, result)
        if self._progress.target == 1:
            self._say(f"epoch {result.epoch}/{trial.config.epochs}  {measures(result)}")

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """A line a trial."""
        self._progress.ended(trial, outcome, value)
        if self._progress.target > 1:
            shown = "" if value is None else f" {value:.4f}"
            what = f"{self._progress.unit} {trial.number}: {self._progress.word(outcome)}{shown}"
            self._say(f"{what}  [{self._progress.label(trial)}]  {self._progress.summary()}")

    def tick(self) -> None:
        """Lines do not tick."""

    def close(self) -> None:
        """Nothing is open."""

    def _say(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except OSError as error:  # which does not say whose
            raise OSError(error.errno, error.strerror, self._stream.name) from None


def measures(result: EpochResult) -> str:
    """What an epoch measured, in one line."""
    return (
        f"val accuracy {result.val_accuracy:.4f}, loss {result.val_loss:.4f}; "
        f"train accuracy {result.train_accuracy:.4f}, loss {result.train_loss:.4f}; "
        f"{result.images_per_s:,.0f} images/s"
    )


class LiveView:
    """A table of the running trials, redrawn in place; trials that ended scroll by above it."""

    def __init__(self, progress: Progress, console: Console) -> None:
        from rich.live import Live

        self._progress = progress
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

    def ended(self, trial: Trial, outcome: str, value: float | None) -> None:
        """Move a row up into the log."""
        self._progress.ended(trial, outcome, value)
        if self._progress.target > 1:
            style = {"complete": "green", "pruned": "yellow"}.get(outcome, "red")
            shown = "" if value is None else f" {value:.4f}"
            what = f"{self._progress.unit} {trial.number:>3} [{style}]{self._progress.word(outcome):<8}[/]{shown}"
            self._live.console.print(f"{what}  {self._progress.label(trial)}")
        self._draw()

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
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in (
            self._progress.unit,
            "configuration",
            "epoch",
            "val accuracy",
            "val loss",
            "images/s",
            "running",
        ):
            table.add_column(column, justify="left" if column == "configuration" else "right")
        for number, line in sorted(self._progress.running.items()):
            table.add_row(
                str(number), self._progress.label(line.trial), *_cells(line), duration(time.monotonic() - line.since)
            )
        foot = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._progress.target, completed=self._progress.finished, width=30)
        foot.add_row(bar, self._progress.summary())
        return Group(table, foot)


def _cells(line: _Line) -> tuple[str, str, str, str]:
    epochs = line.trial.config.epochs
    if line.last is None:
        return f"0/{epochs}", "", "", ""
    last = line.last
    return f"{last.epoch}/{epochs}", f"{last.val_accuracy:.4f}", f"{last.val_loss:.4f}", f"{last.images_per_s:,.0f}"


def make_view(progress: Progress, *, json_output: bool) -> PlainView | LiveView:
    """A live table where stdout is a terminal, else plain lines, on stderr when stdout is for JSON."""
    if json_output:
        return PlainView(progress, sys.stderr)
    if not sys.stdout.isatty():
        return PlainView(progress, sys.stdout)
    from rich.console import Console

    return LiveView(progress, Console())


def status_lines(view: StudyView) -> list[str]:
    """A study as another process sees it, in a few lines."""
    states = [row.state for row in view.rows]
    done = states.count("complete") + states.count("pruned")
    waiting = f", {states.count('waiting')} enqueued" if "waiting" in states else ""
    lines = [
        f"study {view.name}: {done}/{view.target} trials finished, {states.count('complete')} complete, "
        f"{states.count('pruned')} pruned, {states.count('failed')} failed, {states.count('running')} running{waiting}"
    ]
    lines += [
        f"  trial {row.number}: epoch {row.epochs}, {_value(row)}, {params(row)}, {_seconds(row)}"
        for row in view.rows
        if row.state == "running"
    ]
    best = sorted((r for r in view.rows if r.state == "complete"), key=lambda r: -(r.value or 0))[:5]
    lines += ["best so far:"] if best else []
    lines += [f"  trial {row.number}: {_value(row)}, {params(row)}" for row in best]
    left = _seconds_left(view, done)
    return lines + ([f"about {duration(left)} left"] if left is not None else [])


def _seconds_left(view: StudyView, done: int) -> float | None:
    seconds = [r.seconds for r in view.rows if r.state in ("complete", "pruned") and r.seconds]
    if not seconds or done >= view.target or not any(r.state == "running" for r in view.rows):
        return None
    return (view.target - done) * sum(seconds) / len(seconds) / max(view.workers, 1)


def params(row: TrialRow) -> str:
    """A trial's parameters in one line."""
    shown: Sequence[str] = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.params.items()]
    return ", ".join(shown)


def _value(row: TrialRow) -> str:
    return "no epoch yet" if row.value is None else f"val accuracy {row.value:.4f}"


def _seconds(row: TrialRow) -> str:
    return "" if row.seconds is None else duration(row.seconds)
