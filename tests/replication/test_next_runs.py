"""The runs that `sweeper verify --train` chooses, trains and judges."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from sweeper.core.config import RunConfig
from sweeper.core.errors import SweeperError, TrainingError
from sweeper.core.results import Training
from sweeper.engine.choice import EngineChoice
from sweeper.replication.article import Arm, Protocol
from sweeper.replication.articles.learnopencv import ARMS, PROTOCOLS
from sweeper.replication.claims.ledger import Ledger
from sweeper.replication.claims.looks import fingerprint, read_looks
from sweeper.replication.next_runs import affordable, seconds_of, steps, train_next_runs
from sweeper.replication.verify import verify
from sweeper.tracking.reading import read_events
from sweeper.training.start import training
from tests.replication.conftest import Command
from tests.replication.drawn import NAMES, QUICK, WORLD, environment, verified, written
from tests.support.worlds import EPOCHS

TINY = Protocol("quick", "for tests", seeds=2, train_images=512, epochs=EPOCHS)  # as long as the runs of a world
TRAIN = ("verify", "--protocol", "quick", "--train", "--tracking-uri", "offline")


def test_the_cheapest_claim_comes_first_and_pays_for_the_next(ledger: Ledger) -> None:
    plan = steps(ledger.judged, ledger.runs)
    assert plan
    pairs = [pair for step in plan for pair in step.runs]
    assert len(pairs) == len(set(pairs))
    alone = [step.seconds for entry in ledger.judged for step in steps([entry], ledger.runs)]
    assert plan[0].seconds == min(alone)
    assert sum(step.seconds for step in plan) < sum(alone)
    needed = {entry.claim.number: entry.seeds_needed for entry in ledger.judged if entry.verdict == "inconclusive"}
    assert all(step.seeds == needed[step.claim] for step in plan)
    first = plan[0]
    assert first.seconds == pytest.approx(sum(seconds_of(ledger.runs[arm][0]) for arm, _ in first.runs), rel=0.1)


def test_a_plan_spends_no_more_than_its_budget(ledger: Ledger) -> None:
    plan = steps(ledger.judged, ledger.runs)
    assert affordable(plan, 0) == []
    assert affordable(plan, plan[0].seconds) == plan[:1]
    assert affordable(plan, 1e9) == plan


def test_before_the_first_look_a_plan_goes_to_it(tmp_path: Path) -> None:
    early = verified(tmp_path, 1)
    plan = steps(early.judged, early.runs)
    assert {step.seeds for step in plan} == {3}
    assert {pair for step in plan for pair in step.runs} == {(arm, seed) for arm in NAMES for seed in (1, 2)}


def test_a_plan_without_a_budget_only_says_what_it_would_train(
    tmp_path: Path, ledger: Ledger, sweeper: Command
) -> None:
    written(tmp_path, ledger.runs, NAMES)
    code, out, _ = sweeper(*TRAIN, "--budget", "0")
    assert code == 0
    assert re.search(r"^claim +\d+ to \d+ seeds: \d+ runs more, \w+  \(beyond the budget\)", out, re.M)
    assert "nothing to train: the first would take" in out


def test_plan_shows_what_train_would_train_and_trains_nothing(
    tmp_path: Path, ledger: Ledger, sweeper: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, ledger.runs, NAMES)
    before = sorted((tmp_path / "journal").rglob("events.jsonl"))
    monkeypatch.setattr("sweeper.replication.next_runs.reproduce", lambda *_: pytest.fail("trained"))
    code, out, _ = sweeper("verify", "--protocol", "quick", "--plan", "--budget", "1000h")
    assert code == 0
    assert re.search(r"^claim +\d+ to \d+ seeds: \d+ runs more, \w+  (?!\(beyond)", out, re.M)
    assert "nothing was trained; to train them: sweeper verify --protocol quick --train" in out.splitlines()
    assert sorted((tmp_path / "journal").rglob("events.jsonl")) == before


# --- training -------------------------------------------------------------------------------------------------


def report_of(home: Path) -> str | None:
    """The fingerprint of the runs whose report is recorded."""
    events = read_events(home / "journal/reproduce-quick/study")
    return events[-1]["tags"]["sweeper.fingerprint"] if events else None


@pytest.fixture
def two_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None) -> Path:
    """A home with two seeds of exp1 and exp2; the third, which claim 3 asks for, is trained in a second."""
    monkeypatch.setitem(PROTOCOLS, "quick", TINY)
    monkeypatch.setitem(ARMS, "exp2", Arm("", 2, {"model": "small", "lr": 2e-3}))
    written(tmp_path, WORLD.draw(["exp1", "exp2"], 2, np.random.default_rng(0)), ["exp1", "exp2"], dataset="sample")
    return tmp_path


def test_a_plan_is_trained_and_judged_again(two_seeds: Path) -> None:
    said: list[str] = []
    env = environment(two_seeds, said)
    before = verify(env.journal, QUICK)
    assert train_next_runs(env, before, budget=0, workers=1) is before
    after = train_next_runs(env, before, budget=600, workers=1)
    seeds = {arm: [run.seed for run in runs] for arm, runs in after.runs.items()}
    assert seeds == {"exp2": [0, 1, 2], "exp1": [0, 1, 2]}
    assert [look.seeds for look in after.judged[2].looks] == [3]
    assert {run.history_sha256 for run in before.runs["exp1"]} < {run.history_sha256 for run in after.runs["exp1"]}
    words = [line[: line.index(",")] for line in said if line.startswith("claim")][-2:]
    assert words == ["claim  2 to 3 seeds: 1 run more", "claim  3 to 3 seeds: 1 run more"]
    assert report_of(two_seeds) == fingerprint(after.runs)


def test_a_plan_whose_time_is_over_is_judged_all_the_same(
    two_seeds: Path, monkeypatch: pytest.MonkeyPatch, sweeper: Command
) -> None:
    monkeypatch.setattr("sweeper.replication.next_runs.affordable", lambda plan, budget: plan)  # a forecast too good
    code, _, err = sweeper(*TRAIN, "--budget", "0.001")
    assert code == 0, err
    assert re.search(r"^warning: the budget was enough for [01] of 2 planned runs$", err, re.M), err
    assert (two_seeds / "report/quick/ledger.json").exists()
    assert len(list(read_looks(two_seeds / "journal/reproduce-quick.looks.jsonl"))) == 1


def test_a_plan_that_trains_nothing_records_a_report_that_is_missing(two_seeds: Path) -> None:
    env = environment(two_seeds, [])
    found = replace(verify(env.journal, QUICK), judged=[])  # so that no claim asks for runs
    train_next_runs(env, found, budget=0, workers=1)
    train_next_runs(replace(env, tracking_uri="none"), found, budget=600, workers=1)
    with FileLock(two_seeds / "journal/reproduce-quick/.lock"):
        train_next_runs(env, found, budget=600, workers=1)  # another command trains
    assert report_of(two_seeds) is None
    train_next_runs(env, found, budget=600, workers=1)
    assert report_of(two_seeds) == fingerprint(found.runs)


@pytest.mark.parametrize("broken", ["exp1", "all"])
def test_a_plan_that_fails_is_judged_too_and_the_exit_code_is_3(
    broken: str, two_seeds: Path, monkeypatch: pytest.MonkeyPatch, sweeper: Command
) -> None:
    def failing(config: RunConfig, data: Any) -> Training:
        if broken == "all" or config.experiment == 1:
            raise TrainingError("no luck")
        return (yield from training(config, data))

    monkeypatch.setattr("sweeper.engine.serial.start", failing)
    monkeypatch.setattr("sweeper.replication.next_runs.EngineChoice", lambda **_: EngineChoice("serial"))
    monkeypatch.setattr("sweeper.sweep.driver.SAME_ERROR_FROM_THE_START", 2)
    code, _, err = sweeper(*TRAIN)
    assert code == 3
    if broken == "exp1":
        assert "warning: exp1 seed 2 failed: no luck" in err.splitlines()
        assert "1 of 2 runs failed: exp1 seed 2 (no luck)" in err.splitlines()[-1]
        assert "the budget was enough" not in err
    else:
        assert err.splitlines()[-1] == "error: the first 2 trials failed with the same error: no luck"
    result = json.loads((two_seeds / "report/quick/ledger.json").read_text())
    assert len(result["runs"]["exp2"]) == (3 if broken == "exp1" else 2)


def test_runs_of_two_kinds_are_not_continued(tmp_path: Path, ledger: Ledger) -> None:
    path = written(tmp_path, ledger.runs, ["exp1", "exp2"]) / "exp1/seed-0/events.jsonl"
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "bf16"', 1))
    env = environment(tmp_path, [])
    with pytest.raises(SweeperError, match="several kinds"):
        train_next_runs(env, verify(env.journal, QUICK), budget=1e6, workers=1)


# --- claims files ----------------------------------------------------------------------------------------------

CLAIMS = """\
name: mine
title: Mine
dataset: sample
seeds: 3
base: {model: small, epochs: 1, train_images: 512}
arms:
  plain: {placement: none}
  bn: {placement: bn}
claims:
  - says: BatchNorm helps at once
    if: accuracy, bn - plain > 0
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None) -> Path:
    """A claims file whose runs take tenths of seconds."""
    monkeypatch.setattr("sweeper.replication.next_runs.EngineChoice", lambda **_: EngineChoice("serial"))
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    return tmp_path / "claims.yaml"


def test_claims_without_a_run_are_planned_to_the_seeds_of_their_file_and_trained(
    file: Path, tmp_path: Path, sweeper: Command
) -> None:
    verify_it = ("verify", "--claims", "claims.yaml")
    code, _, err = sweeper(*verify_it)
    assert (code, err.splitlines()[-1].partition("holds")[2]) == (
        1, " no finished run of mine, protocol full. Run sweeper reproduce --claims claims.yaml.",
    )  # fmt: skip
    code, out, _ = sweeper(*verify_it, "--plan")
    assert code == 0
    assert re.search(r"^claim  1 to 3 seeds: 6 runs more, \d+s  BatchNorm helps at once$", out, re.M)
    assert "to train them: sweeper verify --claims claims.yaml --train" in out
    code, out, _ = sweeper(*verify_it, "--train", "--budget", "0")
    assert (code, "nothing to train: the first would take" in out) == (0, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims.yaml"]
    code, out, err = sweeper(*verify_it, "--train", "--tracking-uri", "offline", "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert {arm: [run["seed"] for run in runs] for arm, runs in result["runs"].items()} == {
        "plain": [0, 1, 2], "bn": [0, 1, 2],
    }  # fmt: skip
    (claim,) = result["claims"]
    assert (claim["says"], [look["seeds"] for look in claim["looks"]]) == ("BatchNorm helps at once", [3])
    assert result["report"].endswith("report/mine-full")
    code, out, _ = sweeper(*verify_it)
    assert code == 0


def test_an_arm_whose_fields_change_is_trained_again_and_the_others_are_not(
    file: Path, tmp_path: Path, sweeper: Command
) -> None:
    train = ("verify", "--claims", "claims.yaml", "--train", "--tracking-uri", "offline")
    assert sweeper(*train)[0] == 0
    kept = (tmp_path / "journal/reproduce-mine-full/plain/seed-0/events.jsonl").read_bytes()
    file.write_text(CLAIMS.replace("placement: bn}", "placement: bn, lr: 0.002}"))
    code, out, _ = sweeper(*train)
    assert code == 0
    assert re.search(r"^claim  1 to 3 seeds: 3 runs more", out, re.M)
    assert (tmp_path / "journal/reproduce-mine-full/plain/seed-0/events.jsonl").read_bytes() == kept
    assert len(list((tmp_path / "journal/reproduce-mine-full/bn").glob("seed-?.*"))) == 3  # set aside


def test_arms_of_unequal_numbers_of_images_are_trained_by_one_command(
    file: Path, tmp_path: Path, sweeper: Command
) -> None:
    file.write_text(CLAIMS.replace("placement: bn}", "placement: bn, train_images: 600}"))
    code, out, err = sweeper("reproduce", "--claims", "claims.yaml", "--seeds", "1", "--engine", "serial", "--offline")
    assert code == 0, err
    starts = [read_events(tmp_path / f"journal/reproduce-mine-full/{arm}/seed-0")[0] for arm in ("plain", "bn")]
    assert [start["dataset"]["profile"]["train_images"] for start in starts] == [512, 600]
    assert "2/2 runs finished" in out
