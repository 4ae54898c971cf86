"""The driver: exactly N, what becomes of a trial, continuing, and giving up."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from sweeper.core.errors import ConfigError, OutOfMemory, StudyIncomplete, SweeperError, TrainingError
from sweeper.core.metric import ACCURACY, ECE, LOSS, Metric
from sweeper.core.trial import Trial
from sweeper.study.study import Study
from sweeper.sweep.driver import RETRIES, Driver
from sweeper.sweep.progress import PlainView, Progress
from sweeper.tracking.base import FAILED, FINISHED, KILLED, NullTracker
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.reading import read_events
from tests.support.recorder import (
    BASE,
    DIVERGED,
    DONE,
    EPOCHS,
    FAILS,
    LOST,
    Recorder,
    Script,
    describe,
    epoch,
    result,
)
from tests.support.scored import scored

# --- exactly N -----------------------------------------------------------------------------------------

TROUBLE = {
    "none": Recorder(),
    "prunes": Recorder(prunes={0: 1, 3: 1}),
    "diverging": Recorder({1: [DIVERGED], 2: [DIVERGED]}),
    "failures": Recorder({0: [FAILS], 2: [FAILS], 3: [FAILS]}),
    "lost-once": Recorder({0: [LOST, DONE], 4: [LOST, LOST, DONE]}),
    "lost-for-good": Recorder({0: [LOST], 5: [LOST]}),
    "everything": Recorder({0: [LOST, DONE], 1: [FAILS], 2: [DIVERGED], 6: [LOST, FAILS]}, prunes={0: 1, 4: 1}),
}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_a_sweep_ends_with_exactly_the_trials_that_were_asked_for(trouble: Recorder, slots: int):
    recorder = Recorder(trouble.scripts, slots, trouble.prunes)
    assert recorder.drive(8) == recorder.finished() == 8
    assert recorder.count("ask") == 8 + recorder.count("fail")
    assert all(finished_or_running < 8 for _, _, finished_or_running in recorder.named("ask"))
    told = [call[1] for call in recorder.named("complete", "prune", "fail")]
    assert sorted(told) == list(range(recorder.count("ask")))  # each once


@pytest.mark.parametrize("slots", [1, 3])
def test_a_study_ends_with_exactly_the_trials_that_were_asked_for(reopen: Callable[..., Study], slots: int):
    study = reopen()
    assert Recorder(TROUBLE["everything"].scripts, slots).drive(8, study) == 8
    states = [row.state for row in study.rows()]
    assert states.count("complete") + states.count("pruned") == 8
    assert states.count("failed") == len(states) - 8
    assert [row.number for row in study.rows()] == list(range(len(states)))


def test_a_sweep_that_is_done_asks_for_nothing(reopen: Callable[..., Study]):
    Recorder().drive(3, reopen())
    again = Recorder()
    assert again.drive(3, reopen()) == 3
    assert again.calls == []


def test_a_driver_needs_neither_tracking_nor_a_terminal(capsys: pytest.CaptureFixture[str]):
    recorder = Recorder()
    view = PlainView(Progress(target=2), sys.stdout)
    Driver(recorder, recorder, NullTracker(), describe, view).run(2)
    assert recorder.finished() == 2
    assert len(capsys.readouterr().out.splitlines()) == 2


# --- what becomes of a trial ---------------------------------------------------------------------------


def test_a_lost_trial_is_trained_again_with_its_configuration_twice_then_replaced():
    recorder = Recorder({0: [LOST]})
    recorder.drive(1)
    attempts = [config for _, key, config in recorder.named("submit") if key == 0]
    assert attempts == [attempts[0]] * (1 + RETRIES)
    assert RETRIES == 2
    assert recorder.named("fail") == [("fail", 0, "the worker process was ended by SIGKILL")]
    assert recorder.numbers("ask") == [0, 1]
    assert [call[:3] for call in recorder.named("end")] == [("end", 0, FAILED)] * 3 + [("end", 1, FINISHED)]
    assert [call[3]["sweeper.state"] for call in recorder.named("end")] == ["lost", "lost", "failed", "complete"]


def test_memory_that_ran_out_is_tried_again_with_the_same_configuration():
    recorder = Recorder({0: [(epoch(1), OutOfMemory("OutOfMemoryError: no memory")), DONE]})
    assert recorder.drive(1) == 1
    first, second = recorder.named("submit")
    assert first == second
    assert not recorder.named("fail")


def test_no_retries_is_possible():
    recorder = Recorder({0: [LOST]})
    assert recorder.drive(1, retries=0) == 1
    assert recorder.numbers("submit") == [0, 1]


def test_a_trial_that_diverges_is_pruned_with_the_reason(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen()
    Recorder({0: [DIVERGED]}).drive(1, study, JournalTracker(tmp_path))
    (row,) = study.rows()
    assert (row.state, row.reason) == ("pruned", "loss nan after epoch 1: lower lr")
    end = read_events(tmp_path / "study/0000")[-1]
    assert end["tags"] == {"sweeper.state": "pruned", "sweeper.reason": row.reason}


def test_pruning_closes_the_training_and_keeps_what_it_measured():
    recorder = Recorder(prunes={0: 1})
    recorder.drive(1)
    kinds = [call[0] for call in recorder.calls if call[0] not in ("ask", "artifact")]
    assert kinds == ["start", "submit", "report", "cancel", "log", "end", "prune", "ended"]
    assert recorder.named("log") == [("log", 0, 1)]
    (end,) = recorder.named("end")
    assert end[3]["sweeper.state"] == "pruned"
    assert "epoch 1" in end[3]["sweeper.reason"]


def test_a_trial_is_not_pruned_after_its_last_epoch():
    recorder = Recorder(prunes={0: EPOCHS})
    recorder.drive(1)
    assert recorder.named("cancel", "prune") == []
    assert recorder.count("complete") == 1


def test_the_study_prunes_a_trial_below_the_quartile_of_the_complete_ones(reopen: Callable[..., Study]):
    good = [epoch(n, 0.9) for n in range(1, 6)]
    bad = [epoch(n, 0.1) for n in range(1, 6)]
    study = reopen(epochs=5)
    scripts = {number: [(*good, result(0.9))] for number in range(5)} | {5: [(*bad, result(0.1))]}
    recorder = Recorder(scripts)
    recorder.drive(6, study)
    assert [row.state for row in study.rows()] == ["complete"] * 5 + ["pruned"]
    assert recorder.named("cancel") == [("cancel", 5)]
    assert study.rows()[5].epochs == 3
    assert study.rows()[5].reason == (
        "pruned after epoch 3: its best accuracy so far is below the lower quartile, or the median, of the complete "
        "trials at that epoch"
    )


def test_a_finished_trial_leaves_its_weights_and_hashes():
    recorder = Recorder()
    recorder.drive(1)
    names = [call[2] for call in recorder.named("artifact")]
    assert names == ["config.json", "model/state.safetensors", "evaluation/confusion.csv"]
    ((_, _, status, tags),) = recorder.named("end")
    assert (status, tags["sweeper.state"]) == (FINISHED, "complete")
    assert tags["sweeper.history_sha256"] == result().history_sha256
    assert tags["sweeper.weights_sha256"] == result().weights_sha256


@pytest.mark.parametrize(("script", "told"), [(DONE, "complete"), (DIVERGED, "prune"), (FAILS, "fail"), (LOST, "fail")])
def test_the_journal_has_the_end_before_the_study_is_told(script: Script, told: str):
    recorder = Recorder({0: [script]})
    recorder.drive(1)
    order = [call[0] for call in recorder.calls if call[1:2] == (0,) and call[0] in ("end", told)]
    assert order[-2:] == ["end", told]


@pytest.mark.parametrize(("accuracy", "loss"), [(math.nan, 1.0), (0.5, math.nan), (0.5, math.inf)])
def test_a_value_that_is_not_finite_never_reaches_the_study(reopen: Callable[..., Study], accuracy: float, loss: float):
    study = reopen()
    assert Recorder({0: [(epoch(1), result(accuracy, loss))]}).drive(1, study) == 1
    (row,) = study.rows()
    assert (row.state, row.value) == ("pruned", 0.5)  # of its first epoch
    assert " is nan" in row.reason or " is inf" in row.reason


@pytest.mark.parametrize("wrong", [{"val_accuracy": math.nan}, {"val_loss": math.inf}, {"grad_norm": math.inf}])
def test_an_epoch_that_is_not_finite_prunes_its_trial_and_is_recorded_nowhere(wrong: dict[str, float]):
    recorder = Recorder({0: [(epoch(1), replace(epoch(2), **wrong), result())]})
    assert recorder.drive(2) == 2
    assert [call[1:3] for call in recorder.named("report") if call[1] == 0] == [(0, 1)]
    ((_, _, reason),) = recorder.named("prune")
    assert reason.startswith("epoch 2: ")
    assert ("cancel", 0) in recorder.calls


def test_a_wrong_configuration_ends_the_sweep_at_once():
    recorder = Recorder({1: [(epoch(1), ConfigError("batch_size=1: no"))]})
    with pytest.raises(ConfigError, match="batch_size=1: no"):
        recorder.drive(9)
    assert recorder.numbers("fail") == [1]
    assert recorder.count("ask") == 2


def test_the_traceback_of_a_failure_is_kept(reopen: Callable[..., Study], tmp_path: Path):
    error = TrainingError("RuntimeError: no")
    error.details = "Traceback: line 7"
    recorder = Recorder({0: [(error,)]})
    recorder.drive(1, reopen())
    storage = f"sqlite:///{tmp_path / 'sweeper.db'}"
    assert optuna.load_study(study_name="study", storage=storage).trials[0].user_attrs["traceback"] == error.details
    (failed, _) = recorder.named("end")
    assert failed[3]["sweeper.traceback"] == error.details


def test_results_are_kept_where_they_are_wanted():
    kept, dropped = (Driver(r, r, r, describe, r, keep_results=k) for r, k in ((Recorder(), True), (Recorder(), False)))
    assert list(kept.run(2)) == [0, 1]
    assert dropped.run(2) == {}


# --- another metric ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "values"), [(ACCURACY, [0.5, 0.7]), (LOSS, [1.1, 0.9]), (ECE, [0.1, 0.1])])
def test_the_values_of_the_metric_are_reported_and_all_are_told_at_the_end(metric: Metric, values: list[float]):
    recorder = Recorder({0: [(epoch(1), replace(epoch(2, 0.7), val_loss=0.9), result(0.7, 0.9))]}, metric=metric)
    recorder.drive(1)
    assert recorder.named("report") == [("report", 0, 1, values[0]), ("report", 0, 2, values[1])]
    assert recorder.named("complete") == [("complete", 0, result(0.7, 0.9).metrics())]
    assert recorder.values == [values[1]]


def test_a_trial_is_pruned_for_its_losses_where_they_are_searched_for(reopen: Callable[..., Study]):
    """It is the most accurate one."""
    good = [replace(epoch(n, 0.1), val_loss=0.5) for n in range(1, 6)]
    bad = [replace(epoch(n, 0.9), val_loss=2.5) for n in range(1, 6)]
    study = reopen(epochs=5, metric="val/loss")
    scripts = {number: [(*good, result(0.1, 0.5))] for number in range(5)} | {5: [(*bad, result(0.9, 2.5))]}
    Recorder(scripts).drive(6, study)
    assert [row.state for row in study.rows()] == ["complete"] * 5 + ["pruned"]
    assert study.rows()[5].reason.startswith("pruned after epoch 3: its best loss so far is above the upper quartile")


def test_a_trial_that_the_journal_knows_is_told_by_the_metric(reopen: Callable[..., Study], tmp_path: Path):
    study = reopen(metric="val/ece")
    trial = study.ask()
    log = JournalTracker(tmp_path).start(describe(trial))
    for number in (1, 2):
        log.epoch(number, epoch_metrics(replace(epoch(number), val_ece=number / 100)))
    log.end(FINISHED, scored(0.5, 1.1, 0.02), {"sweeper.state": "complete"})
    recorder = Recorder()
    assert recorder.drive(1, reopen(metric="val/ece"), JournalTracker(tmp_path)) == 1
    assert recorder.count("submit") == 0
    assert recorder.values == [0.02]
    study = reopen(metric="val/ece")
    assert study.record().curves[0] == {1: 0.01, 2: 0.02}
    assert [(row.value, row.accuracy, row.loss) for row in study.rows()] == [(0.02, 0.5, 1.1)]


# --- going on after another driver ---------------------------------------------------------------------


@pytest.mark.parametrize(("target", "trained"), [(3, [0]), (2, []), (4, [0, 1])])
def test_trials_left_running_that_are_not_wanted_are_ended(target: int, trained: list[int]):
    left = [Trial(n, BASE.derive(seed=n)) for n in range(2)]
    recorder = Recorder(left=left)
    recorder.calls += [("complete", 8, {}), ("complete", 9, {})]  # of an earlier driver
    assert recorder.drive(target) == target
    assert recorder.numbers("submit") == trained
    assert recorder.numbers("fail") == [n for n in range(2) if n not in trained]
    assert recorder.count("ask") == 0


def test_a_trial_left_running_waits_for_a_worker_that_is_closing_another():
    recorder = Recorder(left=[Trial(n, BASE.derive(seed=n)) for n in (0, 1)], prunes={0: 1})
    assert recorder.drive(2) == 2
    assert recorder.count("ask") == 0


def test_a_study_goes_on_with_the_trials_left_running_and_the_parameters_they_had(reopen: Callable[..., Study]):
    study = reopen()
    asked = [study.ask() for _ in range(2)]
    recorder = Recorder(slots=3)
    assert recorder.drive(4, reopen()) == 4
    assert [Trial(*call[1:]) for call in recorder.named("submit")][:2] == asked
    assert [row.number for row in reopen().rows()] == [0, 1, 2, 3]


def test_a_sweep_with_enqueued_trials_ends_with_exactly_the_trials_that_were_asked_for(
    reopen: Callable[..., Study], tmp_path: Path
):
    reopen().close()
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'sweeper.db'}")
    theirs = optuna.load_study(study_name="study", storage=storage)
    for size in (64, 512, 32, 128):
        theirs.enqueue_trial({"placement": "none", "batch_size": size})
    storage.engine.dispose()
    recorder = Recorder({1: [FAILS], 2: [LOST, DONE]}, slots=2)
    assert recorder.drive(3, reopen()) == 3
    study = reopen()
    assert [row.state for row in study.rows()] == ["complete", "failed", "complete", "complete"]
    assert [row.params["batch_size"] for row in study.rows()] == [64, 512, 32, 128]
    assert Recorder().drive(5, study) == 5
    assert [row.number for row in reopen().rows()] == list(range(6))


# --- giving up -----------------------------------------------------------------------------------------


def failing(*numbers: int, error: str = "RuntimeError: no") -> dict[int, list[Script]]:
    return {n: [(TrainingError(error.format(letter="abcdefghi"[n - 1], n=n)),)] for n in numbers}


@pytest.mark.parametrize(
    ("failures", "target", "asked", "message"),
    [
        (failing(*range(9)), 20, 3, "the first 3 trials failed with the same error: RuntimeError: no"),
        (
            failing(*range(9), error="no room for {n} MiB"),
            20,
            3,
            "the first 3 trials failed with the same error: no room for 2 MiB",
        ),
        (failing(*range(9), error="{letter}"), 20, 4, "4 trials failed, which is too many. Last error: c"),
        (failing(1, 2, 3, 4), 20, 5, "4 trials failed"),
        (failing(*range(1, 10)), 60, 8, "7 trials failed"),  # of 60, a tenth may fail
    ],
    ids=["alike-from-the-start", "alike-but-for-numbers", "four-of-few", "alike-after-a-success", "more-than-a-tenth"],
)
def test_too_many_failures_end_the_sweep(
    failures: Mapping[int, Sequence[Script]], target: int, asked: int, message: str
):
    recorder = Recorder(failures)
    with pytest.raises(StudyIncomplete, match=message) as caught:
        recorder.drive(target)
    assert caught.value.exit_code == 3
    assert recorder.count("ask") == asked


def test_after_the_deadline_nothing_is_asked_and_what_runs_is_finished(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(monotonic=lambda: 10.0)
    monkeypatch.setattr("sweeper.sweep.driver.time", clock)
    recorder = Recorder({1: [(epoch(1), lambda: setattr(clock, "monotonic", lambda: 30.0), epoch(2), result())]})
    with pytest.raises(StudyIncomplete, match="2 of 5 trials finished before --timeout"):
        recorder.drive(5, deadline=20.0)
    assert recorder.count("ask") == recorder.count("complete") == 2


def test_what_makes_tracking_impossible_ends_the_sweep_and_its_runs():
    class Deleted(Recorder):
        def check(self) -> None:
            if self.count("log"):
                raise SweeperError("the experiment was deleted")

    recorder = Deleted()
    with pytest.raises(SweeperError, match="deleted"):
        recorder.drive(2)
    assert [call[:3] for call in recorder.calls[-3:]] == [("close",), ("end", 0, KILLED), ("ended", 0, "killed")]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC], ids=["broken-pipe", "full-disk"])
def test_a_stdout_that_takes_no_more_ends_every_run(reopen: Callable[..., Study], tmp_path: Path, number: int):
    class Full(Recorder):
        def ended(self, trial: Trial, *_: Any) -> None:
            super().ended(trial, *_)
            raise OSError(number, os.strerror(number), "<stdout>")

    recorder = Full({0: [(epoch(1), result())], 1: [(epoch(1),) * 9], 2: [(epoch(1),) * 9]}, slots=3)
    with pytest.raises(OSError, match=os.strerror(number)):
        recorder.drive(4, reopen(), JournalTracker(tmp_path))
    ends = [read_events(tmp_path / f"study/{n:04d}")[-1] for n in range(3)]
    assert [(end["event"], end["status"]) for end in ends] == [("end", FINISHED), ("end", KILLED), ("end", KILLED)]
    assert recorder.numbers("ended") == [0, 1, 2]
    assert Recorder().drive(4, reopen(), JournalTracker(tmp_path)) == 4
