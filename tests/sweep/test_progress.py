"""The progress of a sweep: plain lines, and the live table."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.core.metric import ECE, LOSS
from sweeper.core.text import duration
from sweeper.core.trial import Trial
from sweeper.study.evidence import Standing
from sweeper.sweep.progress import LiveView, PlainView, Progress, in_words, make_view
from tests.support.recorder import epoch

CONFIG = RunConfig(model="small", epochs=4, conv_dropout=0.25, head_dropout=0.5, dataset="sample")
TRIALS = [Trial(number, CONFIG) for number in range(4)]
LEADER = Standing("0", 1, 0.75, 0.75, 0.75, 0.75)
LABEL = "small bn-dropout conv 0.25 head 0.50 batch 128"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands at 0 until it is moved on."""
    now = [0.0]
    monkeypatch.setattr("sweeper.sweep.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


# --- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"), (0.4, "0s"), (42, "42s"), (59.4, "59s"), (59.6, "1m00s"), (190, "3m10s"), (3599, "59m59s"),
        (3599.7, "1h00m"), (3900, "1h05m"), (90_000, "25h00m"),
    ],
)  # fmt: skip
def test_durations_are_said_as_a_person_would(seconds: float, said: str):
    assert duration(seconds) == said


def test_the_forecast_begins_with_the_first_epoch_and_counts_parts_of_trials(clock: Callable[[float], None]):
    state = Progress(target=4, since=0)
    for trial in TRIALS[:2]:
        state.started(trial)
    clock(10)
    assert state.seconds_left() is None
    assert "left" not in state.summary()
    state.epoch(TRIALS[0], epoch(2))  # half of it
    assert state.seconds_left() == pytest.approx(70)  # 3.5 trials at 20 s each
    state.ended(TRIALS[0], "complete", 0.5)
    state.epoch(TRIALS[1], epoch(4))
    assert state.seconds_left() == pytest.approx(10)  # 2 trials at 5 s each


def test_the_forecast_of_a_continued_sweep_is_from_its_own_pace(clock: Callable[[float], None]):
    state = Progress(target=20, finished=16, at_start=16, since=0)
    clock(10)
    state.ended(TRIALS[0], "pruned", 0.1)
    assert state.seconds_left() == pytest.approx(30)


@pytest.mark.parametrize(
    ("target", "outcomes", "summary"),
    [
        (9, ["complete", "complete"], "2/9 trials finished"),
        (9, ["complete", "pruned"], "2/9 trials finished, 1 pruned"),
        (9, ["failed", "lost"], "0/9 trials finished, 1 failed"),
        (9, ["killed"], "0/9 trials finished"),
        (1, ["complete"], "1/1 trial finished"),
    ],
)
def test_the_summary_counts_outcomes(clock: Callable[[float], None], target: int, outcomes: list[str], summary: str):
    state = Progress(target=target, since=0)
    for trial, outcome in zip(TRIALS, outcomes, strict=False):
        state.started(trial)
        clock(5)
        state.ended(trial, outcome, 0.5 + trial.number / 10)
    assert state.summary().split(", about")[0] == summary
    assert ("about" in state.summary()) == (0 < state.finished < target)
    assert state.running == {}


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (TRIALS[0], LABEL),
        (Trial(0, CONFIG.derive(placement="bn", batch_size=64)), "small bn batch 64"),
        (Trial(5, CONFIG.derive(seed=3), repetition=2), f"{LABEL} seed 3"),
    ],
)
def test_a_trial_is_labelled_by_what_it_trains(trial: Trial, words: str):
    assert Progress(target=1).label(trial) == words


# --- plain lines ---------------------------------------------------------------------------------------


def play(view: PlainView | LiveView) -> None:
    """Three trials: complete, pruned, and failed before its first epoch."""
    for trial, accuracy, outcome in ((TRIALS[0], 0.75, "complete"), (TRIALS[1], 0.25, "pruned")):
        view.started(trial)
        view.epoch(trial, epoch(1, accuracy))
        view.tick()
        view.ended(trial, outcome, accuracy)
    view.started(TRIALS[2])
    view.ended(TRIALS[2], "failed", None)
    view.close()


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (LEADER, "best 0.7500 (trial 0)"),
        (LEADER._replace(n=2, low=0.7, high=0.8), "best 0.7500 [0.7000, 0.8000] (trial 0, 2 seeds)"),
        (LEADER._replace(low=math.nan, high=math.nan), "best 0.7500 (trial 0)"),
    ],
    ids=["one seed", "two seeds", "no interval"],
)
def test_the_summary_names_the_best_configuration_with_its_evidence(best: Standing, words: str):
    assert Progress(target=3, leader=lambda: best).summary().endswith(words)


def test_the_summary_names_another_metric_than_the_accuracy():
    assert Progress(target=3, leader=lambda: LEADER, metric=LOSS).summary().endswith("best val loss 0.7500 (trial 0)")


def test_a_sweep_is_a_plain_line_for_each_trial(clock: Callable[[float], None]):
    stream = io.StringIO()
    play(PlainView(Progress(target=3, leader=lambda: LEADER), stream))
    first, second, third = stream.getvalue().splitlines()
    assert first.startswith(f"trial 0: complete 0.7500  [{LABEL}]  1/3 trials")
    assert second.startswith("trial 1: pruned 0.2500 ")
    assert "2/3 trials finished, 1 pruned, best 0.7500 (trial 0)" in second
    assert third.startswith("trial 2: failed  [")


@pytest.mark.parametrize("target", [1, 3])
def test_a_trial_that_is_lost_is_a_line_that_says_why(target: int):
    stream = io.StringIO()
    view = PlainView(Progress(target=target), stream)
    view.started(TRIALS[0])
    view.ended(TRIALS[0], "lost", None, "its node is gone")
    assert f"trial 0: lost (its node is gone)  [{LABEL}]" in stream.getvalue()


def test_a_single_run_is_a_plain_line_for_each_epoch():
    stream = io.StringIO()
    view = PlainView(Progress(target=1, unit="run"), stream)
    view.started(TRIALS[0])
    for number in range(1, 5):
        view.epoch(TRIALS[0], epoch(number))
    view.ended(TRIALS[0], "complete", 0.5)
    what, *epochs = stream.getvalue().splitlines()
    assert what == LABEL
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/4", "epoch 2/4", "epoch 3/4", "epoch 4/4"]
    assert epochs[0].endswith("val accuracy 0.5000, loss 1.1000; train accuracy 0.6000, loss 1.0000; 600 images/s")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, OSError), (errno.EPIPE, BrokenPipeError)])
def test_a_stream_that_takes_no_more_is_named(number: int, kind: type[OSError]):
    class Full(io.StringIO):
        name = "<stdout>"

        def write(self, text: str) -> int:
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=f"{os.strerror(number)}: '<stdout>'") as caught:
        PlainView(Progress(target=1), Full()).started(TRIALS[0])
    assert type(caught.value) is kind


# --- the live table ------------------------------------------------------------------------------------


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def live(stream: io.StringIO, clock: Callable[[float], None]) -> LiveView:
    console = Console(file=stream, force_terminal=True, width=120, height=30, color_system=None)
    return LiveView(Progress(target=3, leader=lambda: LEADER), console)


def frames(stream: io.StringIO) -> list[str]:
    """The written lines, without the codes that move the cursor."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()]


def test_the_live_table_shows_each_running_trial(live: LiveView, stream: io.StringIO, clock: Callable[[float], None]):
    live.started(TRIALS[2])
    live.started(TRIALS[1])
    clock(65)
    stream.truncate(0)
    live.epoch(TRIALS[1], epoch(3, 0.8125))
    assert [line.split() for line in frames(stream) if "small" in line] == [
        ["1", *LABEL.split(), "3/4", "0.8125", "1.1000", "600", "1m05s"],
        ["2", *LABEL.split(), "0/4", "1m05s"],
    ]
    live.close()


def test_the_live_table_shows_the_metric_that_is_searched_for_first(
    stream: io.StringIO, clock: Callable[[float], None]
):
    console = Console(file=stream, force_terminal=True, width=140, height=30, color_system=None)
    live = LiveView(Progress(target=3, metric=ECE), console)
    live.started(TRIALS[1])
    live.epoch(TRIALS[1], epoch(3, 0.8125))
    lines = frames(stream)
    assert any("val ECE  val accuracy  val loss  images/s" in line for line in lines)
    assert any(line.split()[-5:] == ["0.1000", "0.8125", "1.1000", "600", "0s"] for line in lines)
    live.close()


LONG = CONFIG.derive(placement="bn-head-dropout", batch_size=512, model="medium", seed=7)


def test_at_80_columns_each_trial_is_one_line_and_nothing_stays_when_all_have_ended(
    stream: io.StringIO, clock: Callable[[float], None]
):
    console = Console(file=stream, force_terminal=True, width=80, height=24, color_system=None)
    live = LiveView(Progress(target=50, finished=9, leader=lambda: LEADER), console)
    trials = [TRIALS[1], Trial(10, LONG, repetition=2)]
    for trial in trials:
        live.started(trial)
    stream.seek(0)
    stream.truncate()
    live.epoch(trials[1], epoch(3, 0.8125))
    lines = [line for line in frames(stream) if line]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[:3]] == ["trial", "1", "10"]
    assert lines[1].split()[1:3] == ["small", "bn-dropout"]  # two models run
    assert lines[2].split()[-3:] == ["3/4", "0.8125", "1.1000"]
    live.ended(trials[1], "complete", 0.8125)
    stream.seek(0)
    stream.truncate()
    live.ended(trials[0], "killed", None)
    assert any(line.startswith("trial   1 killed    small bn-dropout") for line in frames(stream))
    stream.seek(0)
    stream.truncate()
    live.close()
    assert all("finished" in line or "left" in line for line in frames(stream) if line)


def test_trials_that_ended_scroll_by_above_the_live_table_which_gives_back_the_cursor(
    live: LiveView, stream: io.StringIO
):
    assert "\x1b[?25l" in stream.getvalue()
    play(live)
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")
    lines = frames(stream)
    assert f"trial   0 complete 0.7500  {LABEL}" in lines
    assert f"trial   1 pruned   0.2500  {LABEL}" in lines
    assert f"trial   2 failed    {LABEL}" in lines
    last = [line for line in lines if line][-1]  # stays on the screen
    assert last.endswith("2/3 trials finished, 1 pruned, 1 failed, best 0.7500 (trial 0), about 0s left")


def test_the_live_table_is_not_redrawn_at_every_tick(
    live: LiveView, stream: io.StringIO, clock: Callable[[float], None]
):
    live.started(TRIALS[0])
    drawn = len(stream.getvalue())
    live.tick()
    assert len(stream.getvalue()) == drawn
    clock(1)
    live.tick()
    assert len(stream.getvalue()) > drawn
    live.close()


class Stream(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def environment(json_output: bool = False, progress: bool = True, verbose: bool = False) -> Environment:
    return Environment(Path(), "none", "", None, json_output, print, print, progress, verbose)


def test_without_progress_nothing_is_shown(monkeypatch: pytest.MonkeyPatch):
    streams = [Stream(True), Stream(True)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    play(make_view(Progress(target=3), environment(progress=False)))
    assert [stream.getvalue() for stream in streams] == ["", ""]


@pytest.mark.parametrize(
    ("tty", "json_output", "kind", "shown_on"),
    [(True, False, LiveView, "stdout"), (False, False, PlainView, "stdout"), (True, True, PlainView, "stderr")],
    ids=["terminal", "pipe", "json"],
)
def test_the_view_suits_the_terminal_and_leaves_stdout_to_json(
    monkeypatch: pytest.MonkeyPatch, tty: bool, json_output: bool, kind: type, shown_on: str
):
    streams = {"stdout": Stream(tty), "stderr": Stream(tty)}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    view = make_view(Progress(target=3), environment(json_output))
    assert isinstance(view, kind)
    play(view)
    assert {name for name, stream in streams.items() if stream.getvalue()} == {shown_on}


def test_verbose_prints_each_epoch_of_each_trial_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", Stream(True))
    play(make_view(Progress(target=3), environment(verbose=True)))
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == f"trial 0: {LABEL}"
    assert lines[1].startswith("trial 0: epoch 1/4  val accuracy ")


def test_a_command_in_a_cell_of_a_notebook_gets_plain_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", Stream(True))
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert isinstance(make_view(Progress(target=3), environment()), PlainView)


WIDGETS = """
class Output:
    drawn = 0

    def __enter__(self):
        self.drawn += 1

    def __exit__(self, *_):
        pass

    def clear_output(self, wait):
        pass
"""


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_gets_a_table_in_a_widget_or_plain_lines_without_ipywidgets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, installed: bool
):
    (tmp_path / "ipywidgets.py").write_text(WIDGETS)
    monkeypatch.syspath_prepend(tmp_path)
    if not installed:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shell = type("ZMQInteractiveShell", (), {})()  # by its name rich knows a notebook
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    displayed: list[Any] = []
    monkeypatch.setattr("IPython.display.display", displayed.append)  # outside a kernel it prints
    play(make_view(Progress(target=3), environment()))
    widgets = [shown for shown in displayed if type(shown).__module__ == "ipywidgets"]
    assert [widget.drawn > 3 for widget in widgets] == [True] * installed
    assert ("trial 0: complete" in capsys.readouterr().out) == (not installed)


def test_parameters_are_shown_in_three_digits():
    assert in_words({"lr": 0.00123456, "batch_size": 64}) == "lr 0.00123, batch_size 64"
