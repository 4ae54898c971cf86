"""The budget of an advice: kept when the machine slows down, and decided the same after an interruption.

The clock is a number that each epoch of a simulated run moves on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.advice.budget import Budget, budget_of
from sweeper.advice.design import Run
from sweeper.advice.pilot import Limits
from sweeper.advice.record import Ended, open_record, read_record
from sweeper.advice.result import ranking
from sweeper.advice.rounds import State
from sweeper.advice.stages import train_stages
from sweeper.advice.work import Pace, Screened, Work
from sweeper.core.config import RunConfig
from sweeper.core.errors import OutOfTime
from sweeper.core.placements import Placement
from tests.advice.worlds import outcome

PLACEMENTS = (Placement.NONE, Placement.BN, Placement.DROPOUT, Placement.BN_DROPOUT)
BUDGET = 300.0  # seconds: 60 runs of 5 epochs
EPOCHS = 5
PILOT, ROUND = 3, 16  # runs
Speed = Callable[[float], float]  # seconds of an epoch at a time


class KilledError(Exception):
    """The process is gone."""


class Clock:
    """Seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Simulated(Work):
    """Trains one run after the other in no time at all, on a clock of its own."""

    speed: Speed = lambda _: 1.0
    kill_at: int = 10_000  # runs, after which the process is killed

    def read(self) -> None:
        """Read nothing: `drive` notes the runs that end."""

    def drive(self, source: Screened, built: Any) -> None:
        clock = self.budget.clock
        assert isinstance(clock, Clock)
        while (trial := source.ask()) and (run := source.runs[trial.number]):
            if len(self.ended) >= self.kill_at:
                raise KilledError
            read = self.record.run(self.record.key(run))  # as after an interruption: its rates are no longer numpy's
            assert read is not None
            found, begun, epochs = outcome(read, noise=0.004), clock.now, []
            assert found.accuracy is not None
            for epoch in range(1, trial.config.epochs + 1):
                clock.now += self.speed(clock.now - 1_000.0)
                epochs.append({"val/accuracy": found.accuracy, "val/loss": abs(epoch - 8) / 10, "train/loss": 0.2,
                               "time/epoch_s": 1.0})  # fmt: skip
                source.report(trial.number, epoch, found.accuracy)
            source.complete(trial.number, {})
            final = {"final/val_accuracy": found.accuracy}
            self.ended[run] = Ended(run, Path(), True, epochs, final, begun, clock.now)


@dataclass
class World:
    """A folder with a record, a clock, and the runs that have ended."""

    folder: Path
    clock: Clock
    ended: dict[Run, Ended]
    lines: list[str]

    def advise(self, budget: float, speed: Speed = lambda _: 1.0, **options: Any) -> State:
        limits = Limits(budget, None, EPOCHS)
        record = open_record(self.folder, {}, limits)
        asked = SimpleNamespace(budget=budget, epochs=EPOCHS, trainings=None)
        question = SimpleNamespace(
            asked=asked, limits=limits, placements=PLACEMENTS, base=RunConfig(dataset="sample", epochs=EPOCHS)
        )
        engine = SimpleNamespace(engine=SimpleNamespace(slots=1))
        others: dict[str, Any] = dict.fromkeys(("tracker", "signals"))
        work = Simulated(
            SimpleNamespace(warn=self.lines.append),  # type: ignore[arg-type]
            question,  # type: ignore[arg-type]
            self.folder, record, [SimpleNamespace(val=range(5_000))],  # type: ignore[arg-type]
            engine=lambda: engine,  # type: ignore[arg-type, return-value]
            view=SimpleNamespace(say=self.lines.append),  # type: ignore[arg-type]
            progress=Pace(0), budget=budget_of(record, self.ended.values(), budget, self.clock), ended=self.ended,
            speed=speed, **others, **options,
        )  # fmt: skip
        return train_stages(work)

    @property
    def used(self) -> float:
        return self.clock.now - 1_000.0

    def stages(self) -> dict[str, int]:
        return {stage: len(list(runs)) for stage, runs in itertools.groupby(run.stage for run in self.ended)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Clock(), {}, [])


def another(tmp_path: Path) -> World:
    folder = tmp_path / "another"
    folder.mkdir(parents=True)
    return World(folder, Clock(), {}, [])


def seeds(found: State, world: World) -> dict[str, int]:
    return {row.placement.value: row.seeds for row in ranking(found, world.ended, {})}


def slower(after: float, by: float) -> Speed:
    return lambda now: by if now >= after else 1.0


def test_a_steady_machine_uses_the_budget_and_keeps_it(world: World):
    found = world.advise(BUDGET)
    assert 0.75 * BUDGET < world.used <= BUDGET - EPOCHS  # the recommendation is trained once more
    assert min(seeds(found, world).values()) >= 3


@pytest.mark.parametrize(("after", "by"), [(10, 1.25), (20, 2.0), (100, 2.0), (200, 6.0), (230, 6.0)])
def test_a_machine_that_slows_down_keeps_the_budget(world: World, after: float, by: float):
    assert world.advise(BUDGET, slower(after, by)).comparison.looks
    assert world.used <= BUDGET + (by - 1) * EPOCHS  # of a run that was begun at the former pace


def test_without_time_for_all_the_best_by_the_screening_are_compared(world: World):
    found = world.advise(BUDGET, slower(10, 2.0))
    compared = {arm for look in found.comparison.looks for arm in look.values}
    assert 2 <= len(compared) < len(PLACEMENTS)
    assert list(found.cells)[: len(compared)] == [each for each in found.cells if each.value in compared]
    rows = ranking(found, world.ended, {})
    assert rows[0].placement.value == found.comparison.best
    left_out = [row for row in rows if row.placement.value not in compared]
    assert {row.verdict for row in left_out} == {"not compared: no time"}
    assert rows[-len(left_out) :] == left_out
    assert any("by the pace of the latest runs" in line for line in world.lines)


def test_a_machine_that_becomes_faster_trains_more(world: World, tmp_path: Path):
    world.advise(BUDGET)
    other = another(tmp_path)
    other.advise(BUDGET, lambda now: 1.0 if now < 100 else 0.5)
    assert len(other.ended) > 1.3 * len(world.ended)
    assert other.used <= BUDGET


@pytest.mark.parametrize("speed", [slower(20, 1.25), slower(150, 1.5)], ids=["at once", "late"])
def test_killed_in_each_stage_and_continued_it_is_that_of_an_unbroken_command(
    world: World, tmp_path: Path, speed: Speed
):
    whole = world.advise(BUDGET, speed)
    total = len(world.ended)
    for kills in ([2], [PILOT + ROUND + 2], [total - 2], [1, 10, 24, total - 10]):
        other = another(tmp_path / str(kills))
        for kill in kills:
            with pytest.raises(KilledError):
                other.advise(BUDGET, speed, kill_at=kill)
        found = other.advise(BUDGET, speed)
        assert list(other.ended) == list(world.ended)
        assert found.cells == whole.cells
        assert found.comparison.found == whole.comparison.found


def test_a_finished_advice_trains_nothing_more_and_more_time_continues_it(world: World):
    world.advise(200)
    before = dict(world.ended)
    world.clock.now += 3_600
    world.advise(200, kill_at=0)
    world.advise(100, kill_at=0)
    assert world.ended == before
    world.advise(400)
    assert len(world.ended) > len(before)


def test_a_decision_is_recorded_before_its_first_run(world: World):
    with pytest.raises(KilledError):
        world.advise(BUDGET, slower(10, 1.25), kill_at=PILOT + ROUND)
    record = read_record(world.folder)
    assert record.plan is not None
    assert record.plan.pace == pytest.approx(0.8)
    assert record.due > ROUND


def test_too_little_time_for_a_comparison_says_how_much_is_enough(world: World):
    with pytest.raises(OutOfTime, match=r"the budget of 5m00s ended .* --budget (\d+)m") as error:
        world.advise(BUDGET, slower(20, 6.0))
    assert world.used <= BUDGET + 5 * EPOCHS
    minutes = int(str(error.value).split("--budget ")[1].split("m")[0])
    assert world.advise(60.0 * minutes, slower(20, 6.0)).comparison.looks


def test_a_pause_costs_no_time():
    clock = Clock()
    budget = Budget(100, 10, clock)
    clock.now += 5
    for paused in (True, True, False, False):
        budget.pause(paused)
        clock.now += 50 * paused
    budget.pause(True)
    clock.now += 7
    assert budget.used() == 15
    budget.pause(False)
    assert budget.used() == 15


def test_the_pace_is_that_of_the_latest_epochs():
    clock = Clock()
    budget = Budget(100, 0, clock)
    budget.pace_before, budget.window = 9.0, 3
    paces: list[float] = []
    for seconds in (1, 1, 1, 1, 2, 2, 2):
        clock.now += seconds
        budget.tick()
        paces.append(budget.pace)
    assert paces == pytest.approx([9, 9, 9, 1, 0.75, 0.6, 0.5])
    assert budget.fits(1, 20)
    assert not budget.fits(3, 12)
