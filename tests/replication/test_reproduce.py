"""The reproduction: which runs are trained and recorded, and that none is trained twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE
from sweeper.core.errors import ConfigError, StudyConflict, StudyIncomplete, UsageError
from sweeper.core.results import EpochResult
from sweeper.core.trial import Trial
from sweeper.data.sources import find
from sweeper.engine import choice as engine_choice
from sweeper.replication import reproduce
from sweeper.replication.article import Arm, Protocol
from sweeper.replication.articles.learnopencv import ARMS, PROTOCOLS
from sweeper.replication.plan import order
from sweeper.replication.reproduce import ArmProgress, dry_run
from sweeper.tracking.base import FAILED, FINISHED, KILLED
from sweeper.tracking.reading import read_events
from sweeper.training.folds import finish
from sweeper.training.images import load
from sweeper.training.start import training
from tests.replication.conftest import Command
from tests.replication.drawn import QUICK
from tests.replication.place import Place, breaks


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that are trained, in their order."""
    configs: list[RunConfig] = []

    def noted(config: RunConfig, data: Any) -> Any:
        configs.append(config)
        return training(config, data)

    monkeypatch.setattr("sweeper.engine.serial.start", noted)
    return configs


# --- what is trained and recorded --------------------------------------------------------------------------


def test_every_arm_and_seed_is_a_finished_run_in_its_folder(place: Place):
    result = place.reproduce(1, 2, seeds=2)
    assert (result["runs"], result["recorded"], result["added"], result["failed"]) == (4, 4, 4, {})
    folders = sorted(str(path.parent.relative_to(place.root)) for path in place.root.glob("*/*/events.jsonl"))
    assert folders == ["exp1/seed-0", "exp1/seed-1", "exp2/seed-0", "exp2/seed-1"]
    first, *_, last = place.events("exp2/seed-1")
    config = QUICK.config("exp2", 1, dataset="sample")
    assert RunConfig.from_params(first["params"]) == config
    assert first["key"].endswith(f"/{config.key}")
    assert first["name"] == "exp2 s1"
    expected = {"protocol": "quick", "arm": "exp2", "seed": "1", "kind": "run", "experiment": "2", "threads": "1"}
    assert {name: first["tags"][f"sweeper.{name}"] for name in expected} == expected
    assert first["dataset"]["profile"]["train_images"] == 600
    assert last["status"] == FINISHED
    assert json.loads(json.dumps(result)) == result
    row = result["arms"][0]
    assert (row["arm"], row["complete"], row["diverged"]) == ("exp2", 2, 0)
    accuracies = [run.final["final/val_accuracy"] for run in place.runs()["exp2"]]
    assert row["val_accuracy"] == pytest.approx(sum(accuracies) / 2)


def test_runs_are_trained_in_that_order(place: Place, trained: list[RunConfig]):
    place.reproduce(1, 2, 4, seeds=2)
    names = {config.key: f"exp{config.experiment}" for config in trained}
    assert [(names[config.key], config.seed) for config in trained] == list(order(QUICK, ["exp2", "exp4", "exp1"], 2))


def test_workers_train_the_same_runs(place: Place):
    assert place.reproduce(1, 2, seeds=1, workers=2)["added"] == 2
    config = QUICK.config("exp2", 0, dataset="sample")
    (run,) = place.runs()["exp2"]
    assert run.history_sha256 == finish(training(config, load(config, find("sample")))).history_sha256


# --- what is recorded is not trained again -----------------------------------------------------------------


def test_the_same_again_trains_nothing_and_says_so(place: Place, monkeypatch: pytest.MonkeyPatch):
    before = place.reproduce(1, seeds=2)
    files = place.files()
    monkeypatch.setattr(engine_choice, "build", lambda *_, **__: pytest.fail("there is nothing to train"))
    assert place.reproduce(1, seeds=2) == before | {"added": 0}
    assert place.files() == files
    assert place.said[-1] == "2 of 2 runs are recorded already"


def test_more_seeds_and_arms_add_what_is_missing(place: Place, trained: list[RunConfig]):
    place.reproduce(1, seeds=1)
    result = place.reproduce(1, 2, seeds=2)
    assert (result["recorded"], result["added"]) == (4, 3)
    assert [(config.experiment, config.seed) for config in trained] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert place.said[-1] == "1 of 4 runs are recorded already"


def test_a_run_that_diverged_is_done(place: Place, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ARMS, "exp1", Arm("", 1, {"lr": 1e6}))
    result = place.reproduce(1, 2, seeds=1)
    assert (result["recorded"], result["failed"]) == (2, {})
    assert [(row["arm"], row["complete"], row["diverged"]) for row in result["arms"]] == [
        ("exp2", 1, 0),
        ("exp1", 0, 1),
    ]
    assert "lower lr" in place.events("exp1/seed-0")[-1]["tags"]["sweeper.reason"]
    assert place.reproduce(1, 2, seeds=1)["added"] == 0
    assert len(trained) == 2


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, "", "no luck")
    result = place.reproduce(1, 2, seeds=3)
    assert (result["recorded"], result["added"]) == (4, 4)
    assert result["failed"] == {f"exp{n} seed 1": "no luck" for n in (1, 2)}
    assert place.events("exp1/seed-1")[-1]["status"] == FAILED
    breaks(monkeypatch)
    result = place.reproduce(1, 2, seeds=3)
    assert (result["recorded"], result["added"], result["failed"]) == (6, 2, {})
    events = place.events("exp1/seed-1")
    assert [e["event"] for e in events] == ["start", "end", "start", "epoch", "end"]  # of one run
    assert (events[0]["key"], events[-1]["status"]) == (events[2]["key"], FINISHED)


def test_where_nothing_works_the_command_gives_up(place: Place, monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, *["no memory"] * 10)
    with pytest.raises(StudyIncomplete, match="the first 3 trials failed with the same error: no memory"):
        place.reproduce(1, seeds=10)
    assert len(list(place.root.glob("exp1/*"))) == 3


def test_a_changed_configuration_is_a_new_run_and_the_old_one_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.reproduce(1, seeds=1)
    old = place.events("exp1/seed-0")
    monkeypatch.setitem(ARMS, "exp1", Arm("", 1, {"lr": 5e-4}))
    assert place.reproduce(1, seeds=1)["added"] == 1
    assert place.warned == ["1 recorded run of another configuration set aside in the journal; training again"]
    assert place.events("exp1/seed-0")[0]["params"]["lr"] == "0.0005"
    (aside,) = place.root.glob("exp1/seed-0.*")
    assert read_events(aside) == old
    assert place.reproduce(1, seeds=1)["added"] == 0


def test_two_places_have_different_runs_of_one_configuration(place: Place, tmp_path: Path):
    other = Place(tmp_path)
    for each in (place, other):
        each.reproduce(1, seeds=1)
    keys = [each.events("exp1/seed-0")[0]["key"] for each in (place, other)]
    assert keys[0] != keys[1]  # so that one MLflow server can have both


# --- what is refused -------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_compared_are_not_mixed(place: Place):
    place.reproduce(1, seeds=1)
    files = place.files()
    for command in (reproduce.reproduce, dry_run):
        with pytest.raises(StudyConflict, match=r"of another kind \(precision was 'fp32', is 'bf16'\)"):
            place.reproduce(1, precision="bf16", command=command)
    assert place.files() == files


def test_a_second_command_is_refused_while_the_first_runs(place: Place):
    place.root.mkdir(parents=True)
    with filelock.FileLock(place.root / ".lock"), pytest.raises(StudyConflict, match="another process"):
        place.reproduce(1)
    assert place.files() == {}
    assert place.reproduce(1, seeds=1)["added"] == 1  # and the lock is free again
    assert place.reproduce(1, seeds=2)["added"] == 1


def test_a_reproduction_that_nothing_would_record_is_refused(place: Place):
    place.tracking_uri = NONE
    with pytest.raises(UsageError, match="--tracking-uri none"):
        place.reproduce(1)
    assert place.files() == {}


def test_an_arm_whose_batch_does_not_fit_is_refused_before_anything_is_created(place: Place, monkeypatch: Any):
    monkeypatch.setitem(PROTOCOLS, "quick", Protocol("quick", "", seeds=1, epochs=1))
    monkeypatch.setitem(ARMS, "exp1-long", Arm("", 1, {"batch_size": 7_001}))
    with pytest.raises(ConfigError, match="batch_size=7001"):
        place.reproduce(1, only_experiments=False)
    assert list(place.home.iterdir()) == []


# --- progress ---------------------------------------------------------------------------------------------------


def test_the_forecast_weighs_each_run_by_what_it_costs(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("sweeper.sweep.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    state = ArmProgress(target=4, since=0, unit="run", finished=1, at_start=1, costs={1: 10, 2: 10, 3: 80},
                        names={1: "exp1 seed 5", 2: "exp2 seed 5", 3: "exp8 seed 5"})  # fmt: skip
    trials = {number: Trial(number, RunConfig(epochs=4, seed=5)) for number in (1, 2, 3)}
    for number in (1, 3):
        state.started(trials[number])
    now[0] = 30
    assert state.seconds_left() is None
    state.ended(trials[1], "complete", 0.9)
    assert state.seconds_left() == pytest.approx(30 * 90 / 10)
    state.epoch(trials[3], EpochResult(1, 0.9, 0.6, 1.1, 0.5, 0.1, 1e-3, 2.0, 0.5, 9.0))
    assert state.seconds_left() == pytest.approx(30 * 70 / 30)
    state.ended(trials[3], "lost", None)  # and is tried again from its start
    assert state.seconds_left() == pytest.approx(30 * 90 / 10)
    state.ended(trials[3], "pruned", None)
    assert (state.word("pruned"), state.label(trials[3])) == ("diverged", "exp8 seed 5")
    assert state.summary() == "3/4 runs finished, 1 diverged, about 3s left"


# --- as a command ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(place: Place, sweeper: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `sweeper reproduce` in this process."""
    monkeypatch.setenv("SWEEPER_HOME", str(place.home))
    return partial(sweeper, "reproduce", "--protocol", "quick", "--dataset", "sample", "--offline")


def test_the_command_ends_with_a_table_and_names_the_one_that_judges(command: Command):
    code, out, err = command("--exp", "1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "run 0: complete" in lines[0]
    assert "[exp1 seed 0]  1/2 runs finished" in lines[0]
    assert lines[2] == "2 of 2 runs are recorded; 2 new"
    assert lines[3].split() == ["arm", "seeds", "val", "accuracy", "sd", "val", "NLL", "s/epoch", "diverged"]
    assert lines[4].split()[:2] == ["exp1", "2"]
    assert lines[5].endswith("sweeper verify --protocol quick")


def test_a_failed_run_is_named_and_the_exit_code_is_3(command: Command, monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, "", "no luck")
    code, out, err = command("--exp", "1", "--seeds", "3", "--engine", "serial", "--json")
    assert code == 3
    assert json.loads(out)["failed"] == {"exp1 seed 1": "no luck"}
    assert err.splitlines()[-1] == (
        "error: 1 of 3 runs failed: exp1 seed 1 (no luck). Run the same command again to retry them."
    )


@pytest.mark.parametrize(
    ("argv", "arms"),
    [
        (["--exp", "1"], {"exp1"}),
        (["--exp", "1", "--arms", "all"], {"exp1", "exp1-long"}),
        (["--arms", "experiments"], {f"exp{n}" for n in range(1, 9)}),
        ([], set(ARMS)),
    ],
    ids=["exp", "exp-all", "experiments", "all"],
)
def test_the_arms_that_the_options_name(command: Command, place: Place, argv: list[str], arms: set[str]):
    code, out, _ = command(*argv, "--dry-run", "--json")
    assert code == 0
    assert {run["arm"] for run in json.loads(out)["plan"]} == arms
    assert list(place.home.iterdir()) == []


# --- kill -9 -----------------------------------------------------------------------------------------------------

# On one core, with runs of two seconds; the packages that were imported are the last line of stderr.
PROGRAM = """
import atexit, os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
atexit.register(lambda: print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
from sweeper.replication.article import Protocol
from sweeper.replication.articles.learnopencv import PROTOCOLS
PROTOCOLS["quick"] = Protocol("quick", "", seeds=2, train_images=1_000, epochs=6)
from sweeper.cli.main import main
main()
"""
COMMAND = ("reproduce", "--exp", "1", "--seeds", "2", "--protocol", "quick", "--dataset", "sample", "--offline")


def test_a_reproduction_that_is_killed_trains_no_finished_run_again_and_imports_no_mlflow(
    tmp_path: Path, alone: dict[str, str], until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PROTOCOLS, "quick", Protocol("quick", "", seeds=2, train_images=1_000, epochs=6))
    home = Place(tmp_path / "home")
    home.home.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMAND], cwd=home.home, env=alone, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            until(lambda: len(home.events("exp1/seed-1")) > 1, "the second run's first epoch", 300)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    finished, left = home.events("exp1/seed-0"), home.events("exp1/seed-1")
    assert left[-1]["event"] == "epoch"  # it was killed with a run in hand

    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMAND], cwd=home.home, env=alone, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == "1 of 2 runs are recorded already"
    assert home.events("exp1/seed-0") == finished
    events = home.events("exp1/seed-1")
    assert events[: len(left)] == left
    assert [e["step"] for e in events if e["event"] == "epoch"] == list(range(1, 7))
    others = [(e["event"], e.get("status")) for e in events if e["event"] != "epoch"]
    assert others == [("start", None), ("end", KILLED), ("start", None), ("end", FINISHED)]
    assert [run.seed for run in home.runs()["exp1"]] == [0, 1]
    imported = set(again.stderr.splitlines()[-1].split())
    assert "optuna" not in imported
    assert "mlflow" not in imported
