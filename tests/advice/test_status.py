"""`sweeper status` of an advice: what is done, what is in progress, and the ranking so far."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.advice.design import Plan, Run
from sweeper.advice.pilot import Limits, pilot_runs
from sweeper.advice.record import Record, open_record, save, slug
from sweeper.advice.rounds import state
from sweeper.advice.status import is_advice, show_status
from sweeper.core.placements import Placement
from sweeper.study.control import PAUSE, WANTED
from sweeper.sweep.folder import give, held
from sweeper.tracking.base import FINISHED, RunInfo
from sweeper.tracking.journal import JournalLog, JournalTracker
from tests.advice.worlds import outcome
from tests.support.spoken import Spoken

NAME = "advise-net"
PLACEMENTS = (Placement.NONE, Placement.BN)
PLAN = Plan(PLACEMENTS, 40, epochs=2)


class Begun(Spoken):
    """A home with the journal of an advice, written without training."""

    def __init__(self, home: Path, limits: Limits) -> None:
        super().__init__(home)
        folder = self.environment.journal / NAME
        folder.mkdir(parents=True)
        self.record = open_record(folder, {}, limits)
        self.tracker = JournalTracker(self.environment.journal)

    def save(self) -> None:
        save(self.environment.journal / NAME, self.record)

    def start(self, run: Run) -> JournalLog:
        folder = f"{NAME}/{run.stage}/{slug(run)}"
        return self.tracker.start(RunInfo(self.record.key(run), "run", {"epochs": "2"}, {}, "", folder))

    def finish(self, run: Run) -> None:
        log, found = self.start(run), outcome(run, noise=0.005)
        for epoch, value in enumerate(found.curve, 1):
            log.epoch(epoch, {"val/accuracy": value, "train/loss": 0.3, "time/epoch_s": 1.0})
        assert found.accuracy is not None
        log.end(FINISHED, {"final/val_accuracy": found.accuracy}, {"sweeper.state": "complete"})

    def advance(self, until: str) -> None:
        """Finish the pilot and all runs before the stage `until`, or before the second look."""
        for run in pilot_runs(PLACEMENTS):
            self.finish(run)
        self.record.plan, done = PLAN, {}
        while (found := state(PLAN, self.record.rounds, done, self.record.cells)).missing:
            record: Record = self.record
            record.rounds, record.cells = [list(each) for each in found.rounds], dict(found.cells) or None
            self.save()
            if found.missing[0].stage == until or found.comparison.looks:
                return
            for run in found.missing:
                self.finish(run)
                done[run] = outcome(run, noise=0.005)


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    return Begun(tmp_path, Limits(900))


def test_before_the_pilot_is_over_nothing_is_planned(begun: Begun):
    found = show_status(begun.environment, NAME)
    assert is_advice(begun.environment, NAME)
    assert not is_advice(begun.environment, "advise-other")
    assert (found["stage"], found["planned"], found["ranking"]) == ("probe", None, [])
    assert begun.said[0].startswith(f"{NAME}: probe, not running, 0 runs finished, 0s of 15m00s used")


def test_a_run_in_progress_is_shown_while_its_command_lives(begun: Begun):
    begun.advance("screening")
    log = begun.start(begun.record.rounds[0][0])
    log.epoch(1, {"val/accuracy": 0.65})
    log.epoch(2, {"val/accuracy": 0.75})
    with held(begun.environment.journal / NAME):
        found = show_status(begun.environment, NAME)
        assert (found["stage"], found["driven"], found["finished"], found["planned"]) == ("screening", True, 2, 42)
        assert found["running"] == [
            {"run": f"screening/{slug(begun.record.rounds[0][0])}", "epochs": 2, "of": 2, "accuracy": 0.75}
        ]
        assert begun.said[0].startswith(f"{NAME}: screening, running, 2 of at most 42 runs finished")
        assert begun.said[1].startswith("  screening/none_0.0_0.0_x1.0_s0: epoch 2/2, val accuracy 0.7500, ")
        give(begun.environment.journal, NAME, WANTED, PAUSE)
        assert show_status(begun.environment, NAME)["paused"]
    begun.said.clear()
    found = show_status(begun.environment, NAME)
    assert (found["driven"], found["paused"], found["running"]) == (False, False, [])
    assert begun.said[1:] == ["  1 run interrupted", "to continue it, run the same sweeper advise again"]


def test_the_ranking_so_far_is_that_of_the_looks_that_are_complete(begun: Begun):
    begun.advance("nothing")
    found = show_status(begun.environment, NAME)
    assert found["stage"] == "comparison"
    assert [(row["placement"], row["seeds"]) for row in found["ranking"]] == [("bn", 3), ("none", 3)]
    assert "ranking so far:" in begun.said
    assert begun.said[-2].split("  ")[1:3] == ["2", "neither layer"]


def test_an_advice_with_its_answer_is_finished(begun: Begun):
    begun.advance("nothing")
    log = begun.tracker.start(RunInfo("x/advice", "answer", {}, {}, "", f"{NAME}/advice"))
    log.end(FINISHED, {}, {})
    found = show_status(begun.environment, NAME)
    assert (found["stage"], found["planned"]) == ("finished", found["finished"])
    assert "ranking:" in begun.said
