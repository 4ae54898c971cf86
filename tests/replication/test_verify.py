"""The pages and JSON of the ledger, the record of interim analyses, and the next runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from sweeper.cli.main import main
from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import SweeperError, TrainingError
from sweeper.core.results import Training
from sweeper.engine.choice import EngineChoice
from sweeper.replication.arms import ARMS, PROTOCOLS, Arm, Protocol, ProtocolName, arm_config
from sweeper.replication.claims.claims import claims
from sweeper.replication.claims.ledger import ALPHA, Runs, Verified, holm
from sweeper.replication.claims.looks import fingerprint, looks_file, read_looks, record_look
from sweeper.replication.claims.next_runs import affordable, seconds, steps
from sweeper.replication.next_training import train_next_runs
from sweeper.replication.pages.ledger import (
    Ledger,
    favouring,
    forest,
    looks,
    markdown,
    n_runs,
    number,
    p_value,
    text_table,
    untestable,
)
from sweeper.replication.pages.ledger_page import html
from sweeper.replication.verify import describe, judge_runs, publish, verify
from sweeper.tracking.reading import read_events
from sweeper.tracking.store import EXPERIMENT
from sweeper.training.start import training
from tests.support.worlds import EPOCHS, World

pytest_plugins = ["tests.support.mlflow_store"]

NAMES = sorted({arm for claim in claims("quick") for arm in claim.question.arms})
WORLD = (
    World()
    .but("exp2", accuracy=0.97, nll=0.18)
    .but("bn-constant", accuracy=0.93)
    .but("exp5", nll=0.255)
    .but("exp8", accuracy=0.953)
)


def verified(home: Path, seeds: int = 5, world: World = WORLD) -> Verified:
    runs = world.draw(NAMES, seeds, np.random.default_rng(0))
    return judge_runs(home / "journal", "quick", runs)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    return verified(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def ledger(found: Verified) -> Ledger:
    return describe(found, links={})


def environment(home: Path, said: list[str]) -> Environment:
    return Environment(home, "offline", "", None, json_output=False, warn=said.append, say=said.append)


# --- JSON -----------------------------------------------------------------------------------------------------


def test_the_verdicts_can_be_redone_from_the_json(tmp_path: Path) -> None:
    _, result = publish(environment(tmp_path, []), verified(tmp_path))
    written = json.loads((tmp_path / "report/quick/ledger.json").read_text())
    assert written == {k: v for k, v in result.items() if k != "report"}
    p = [
        min([1.0, *(look[side] / look["share_of_alpha"] for look in claim["looks"])])
        for claim in written["claims"]
        for side in ("support", "contradict")
    ]
    adjusted = holm(p)
    for claim, support, contradict in zip(written["claims"], adjusted[::2], adjusted[1::2], strict=True):
        verdict = "supported" if support <= ALPHA else "contradicted" if contradict <= ALPHA else "inconclusive"
        assert claim["verdict"] == (verdict if claim["looks"] else "untestable"), claim
    verdicts = {claim["verdict"] for claim in written["claims"]}
    assert verdicts == {"supported", "contradicted", "inconclusive", "untestable"}


def test_the_json_names_every_run_and_every_test(found: Verified, ledger: Ledger, tmp_path: Path) -> None:
    _, result = publish(environment(tmp_path, []), found)
    run = result["runs"]["exp2"][3]
    assert run == {"seed": 3, "state": "complete", "journal": "exp2/seed-3", "history_sha256": "exp23", "run_id": None}
    third = result["claims"][2]
    assert [test["label"] for test in third["tests"]] == ["accuracy, exp2 - exp1", "NLL, exp2 - exp1"]
    assert third["tests"][0]["n"] == {"exp2": 5, "exp1": 5}
    assert (third["arms"], third["decided_by"]["test"]) == (["exp2", "exp1"], "Welch's t")
    assert third["seeds_needed"] is None
    assert list(result["claims"][12]["also"]) == [f"P(rank 1) in {name}" for name in ("accuracy", "NLL", "gap in NLL")]
    assert all(claim["verdict"] != "inconclusive" or claim["reason"] for claim in result["claims"])


# --- texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal(ledger: Ledger, width: int) -> None:
    lines = text_table(ledger, width)
    assert len(lines) == 29
    assert max(map(len, lines)) <= width
    assert all(line.isascii() for line in lines)
    assert all(re.search(r"  5(  +>?\d+)?$", line) for line in lines[1:]), lines
    assert all(re.search(r"  5  +>?\d+$", line) for line in lines[1:] if "inconclusive" in line)


def test_why_claims_are_untestable(ledger: Ledger) -> None:
    def unlike(count: int) -> Ledger:
        entries = [e._replace(verdict="untestable", reason=f"reason {e.number % count}") for e in ledger.entries]
        return ledger._replace(entries=entries)

    assert untestable(ledger, 200) == [f"untestable 17: {ledger.entries[16].reason}"]
    assert untestable(unlike(14), 80)[:2] == ["untestable 1, 15: reason 1", "untestable 2, 16: reason 2"]
    assert untestable(unlike(14), 80)[4:] == ["and 10 more reasons, in ledger.html"]
    assert len(untestable(unlike(5), 80)) == 5
    assert max(map(len, untestable(unlike(2), 30))) == 30


def test_every_table_says_where_it_holds(ledger: Ledger) -> None:
    text = markdown(ledger).decode()
    tables = re.findall(r"(.*)\n\n\| ", text)
    assert len(tables) == 3
    assert all(
        line.startswith("Under our declared instantiation")
        and all(word in line for word in ("Protocol: quick", "hardware", "images", "seeds", "versions"))
        for line in tables
    )
    assert text.count("contradicts itself") == 1
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {12, 4, 5}


def test_the_page_escapes_what_it_shows_and_links_runs(ledger: Ledger) -> None:
    evil = "<script>alert(1)</script>"
    arms = [ledger.arms[0]._replace(arm=evil, runs=((0, "abc"), (1, None)))]
    page = html(ledger._replace(arms=arms, links={"abc": "http://127.0.0.1:5000/#/x/abc"})).decode()
    assert evil not in page
    assert "&lt;script&gt;" in page
    assert '<a href="http://127.0.0.1:5000/#/x/abc">seed 0</a> seed 1' in page
    row = ledger.arms[0]._replace(arm="exp2", runs=((0, "abc"), (1, None), (2, "other")))
    page = html(ledger._replace(arms=[row], links={"abc": "http://127.0.0.1:5000/#/x/abc"})).decode()
    assert 'exp2 <a href="http://127.0.0.1:5000/#/x/abc">0</a>, exp1</td>' in page  # claim 3, in the table
    assert page.count("two one-sided tests, Welch&#39;s t") == 2  # claim 8: in the table, and where it opens
    assert "and 12 more, below" in page  # claim 21
    assert "Content-Security-Policy" in page
    assert "Under our declared instantiation" in page
    assert all(entry.question.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in page
               for entry in ledger.entries)  # fmt: skip


def test_the_figure_is_the_same_each_time(ledger: Ledger) -> None:
    assert forest(ledger) == forest(ledger)
    assert len(forest(ledger._replace(entries=[]))) < len(forest(ledger))


def test_right_of_zero_favours_a_claim(ledger: Ledger) -> None:
    lower = next(e for e in ledger.entries if e.number == 11)
    assert lower.direction < 0
    low, middle, high = favouring(lower)
    assert low < middle < high
    assert middle == pytest.approx(-lower.estimate)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0031, "points", "+0.31"), (-0.00001, "points", "+0.00"), (np.log(1.07), "ratio", "+7"), (0.4, "share", "40"),
     (-0.0123, "nats", "-0.012"), (float("nan"), "nats", "-")],
)  # fmt: skip
def test_numbers(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_p_values() -> None:
    shown = [p_value(p) for p in (1.0, 0.25, 0.0512, 0.00123, 3.1e-5, 1e-12, float("nan"))]
    assert shown == ["1.00", "0.25", "0.051", "0.001", "3.1e-5", "1.0e-12", "-"]


def test_n_is_that_of_the_test_that_decides(tmp_path: Path) -> None:
    runs = WORLD.draw(["exp7", "exp8", "exp1", "exp2"], 5, np.random.default_rng(0))
    runs["exp7"] = runs["exp7"][:1] + runs["exp7"][2:]  # without seed 1: four runs, one in a row
    shown = describe(judge_runs(tmp_path, "quick", runs), links={})
    sixteenth = shown.entries[15]
    assert (sixteenth.counts, n_runs(sixteenth), looks(sixteenth)) == ({"exp8": 5, "exp7": 4}, "4-5", "-")
    assert (n_runs(shown.entries[2]), looks(shown.entries[2])) == ("5", "3, 5")
    assert n_runs(shown.entries[16]) == "5"  # untestable: the runs that there are
    assert n_runs(shown.entries[10]) == "0"
    assert sixteenth.test == "Welch's t"
    assert re.search(r" 4-5( +>?\d+)?$", text_table(shown, 200)[16])


def test_from_one_run_of_an_arm_no_number_of_seeds_is_foretold(tmp_path: Path) -> None:
    shown = describe(verified(tmp_path, 1), links={})
    assert {(entry.verdict, entry.takes) for entry in shown.entries} == {("inconclusive", ""), ("untestable", "")}
    assert shown.entries[2].reason == "n=1: the first interim analysis is at 3 seeds of each arm"
    assert describe(verified(tmp_path, 2), links={}).entries[2].takes


# --- looks ----------------------------------------------------------------------------------------------------


def test_a_look_at_the_same_runs_is_recorded_once(tmp_path: Path) -> None:
    three, five = verified(tmp_path, 3), verified(tmp_path, 5)
    assert [record_look(three), record_look(three), record_look(five), record_look(five)] == [True, False, True, False]
    looks = list(read_looks(looks_file(five)))
    assert [look["runs"] for look in looks] == [fingerprint(three.runs), fingerprint(five.runs)]
    assert [look["claims"][2]["looks"] for look in looks] == [[3], [3, 5]]
    assert [look["claims"][2]["alpha_spent"] for look in looks] == [1 / 16, 1 / 2]
    assert looks_file(five) == tmp_path / "journal/reproduce-quick.looks.jsonl"


def test_a_look_that_cannot_be_recorded_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("not a folder")
    said: list[str] = []
    publish(environment(tmp_path, said), verified(tmp_path))
    assert len(said) == 1
    assert said[0].startswith("could not save the interim analysis to ")


def test_a_ledger_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("not a folder")
    with pytest.raises(
        SweeperError,
        match=r"could not write .*report/quick \(.*\)\. Set SWEEPER_HOME to a writable folder\.$",
    ):
        publish(environment(tmp_path, []), verified(tmp_path))
    assert not (tmp_path / "journal").exists()


# --- links ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
def test_the_ledger_and_the_report_link_what_the_journal_says_was_carried(
    tmp_path: Path, found: Verified, empty_store: Path, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = client.create_run(client.create_experiment(EXPERIMENT)).info.run_id
    root = written(tmp_path, found.runs, ["exp1", "exp2"])
    for seed, store in ((0, "sqlite:///mlflow.db"), (1, "http://elsewhere:5000")):
        state = {"store": store, "run_id": run_id if seed == 0 else "f" * 32, "events": 8}
        (root / f"exp1/seed-{seed}/upload.json").write_text(json.dumps(state))
    assert sweeper("verify", "--protocol", "quick")[0] == 0
    assert sweeper("report", "reproduce")[0] == 0
    for page in ("report/quick/ledger.html", "report/quick/ledger.md", "report/reproduce-quick.html"):
        text = (tmp_path / page).read_text()
        assert f"/runs/{run_id}" in text, page
        assert "f" * 32 not in text, page
    written_json = json.loads((tmp_path / "report/quick/ledger.json").read_text())
    assert list(written_json["links"]) == [run_id]
    assert [run["run_id"] for run in written_json["runs"]["exp1"][:2]] == [run_id, None]


@pytest.mark.parametrize(
    ("uri", "store"),
    [("http://user:word@127.0.0.1:1", "http://***@127.0.0.1:1"), ("sqlite:///other.db", "sqlite:///other.db")],
)  # nothing listens on port 1
def test_a_store_that_is_away_costs_the_links_alone(
    tmp_path: Path, uri: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = WORLD.draw(["exp1"], 1, np.random.default_rng(0))["exp1"][0]._replace(run_id="abc", store=store)
    said: list[str] = []
    _, result = publish(
        replace(environment(tmp_path, said), tracking_uri=uri), judge_runs(tmp_path, "quick", {"exp1": [run]})
    )
    assert (result["links"], result["runs"]["exp1"][0]["run_id"]) == ({}, "abc")
    assert [line.startswith("the ledger has no links to MLflow: ") for line in said] == [True] * uri.startswith("http")
    assert not (tmp_path / "other.db").exists()


# --- plan -----------------------------------------------------------------------------------------------------


def test_the_cheapest_claim_comes_first_and_pays_for_the_next(found: Verified) -> None:
    plan = steps(found.judged, found.details, found.runs)
    assert plan
    pairs = [pair for step in plan for pair in step.runs]
    assert len(pairs) == len(set(pairs))
    alone = [
        step.seconds for pair in zip(found.judged, found.details, strict=True) for step in steps(*zip(pair), found.runs)
    ]
    assert plan[0].seconds == min(alone)
    assert sum(step.seconds for step in plan) < sum(alone)
    inconclusive = {e.claim.number for e in found.judged if e.verdict == "inconclusive"}
    assert {step.claim for step in plan} <= inconclusive
    for step in plan:
        detail = found.details[step.claim - 1]
        assert detail is not None
        assert step.seeds == detail.seeds_needed
    first = plan[0]
    assert first.seconds == pytest.approx(sum(seconds(found.runs[arm][0]) for arm, _ in first.runs), rel=0.1)


def test_a_plan_spends_no_more_than_its_budget(found: Verified) -> None:
    plan = steps(found.judged, found.details, found.runs)
    assert affordable(plan, 0) == []
    assert affordable(plan, plan[0].seconds) == plan[:1]
    assert affordable(plan, 1e9) == plan


def test_before_the_first_look_a_plan_goes_to_it(tmp_path: Path) -> None:
    early = verified(tmp_path, 1)
    plan = steps(early.judged, early.details, early.runs)
    assert {step.seeds for step in plan} == {3}
    assert {pair for step in plan for pair in step.runs} == {(arm, seed) for arm in NAMES for seed in (1, 2)}


TINY = Protocol("quick", "for tests", seeds=2, train_images=512, epochs=EPOCHS)  # as long as the runs of a world


def test_a_plan_is_trained_and_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", TINY)
    monkeypatch.setitem(ARMS, "exp2", Arm("", 2, {"model": "small", "lr": 2e-3}))
    written(tmp_path, WORLD.draw(["exp1", "exp2"], 2, np.random.default_rng(0)), ["exp1", "exp2"], dataset="sample")
    said: list[str] = []
    env = environment(tmp_path, said)
    before = verify(env.journal, "quick")
    assert train_next_runs(env, before, budget=0, workers=1) is before
    after = train_next_runs(env, before, budget=600, workers=1)
    seeds = {arm: [run.seed for run in runs] for arm, runs in after.runs.items()}
    assert seeds == {"exp2": [0, 1, 2], "exp1": [0, 1, 2]}
    assert [look.seeds for look in after.judged[2].looked.looks] == [3]
    assert {run.history_sha256 for run in before.runs["exp1"]} < {run.history_sha256 for run in after.runs["exp1"]}
    words = [line[: line.index(",")] for line in said if line.startswith("claim")][-2:]
    assert words == ["claim  2 to 3 seeds: 1 run more", "claim  3 to 3 seeds: 1 run more"]
    assert report_of(tmp_path) == fingerprint(after.runs)


def report_of(home: Path) -> str | None:
    """The fingerprint of the runs whose report is recorded."""
    events = read_events(home / "journal/reproduce-quick/study")
    return events[-1]["tags"]["sweeper.fingerprint"] if events else None


@pytest.fixture
def two_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two seeds of exp1 and exp2; the third, which claim 3 asks for, is trained in a second."""
    monkeypatch.setitem(PROTOCOLS, "quick", TINY)
    monkeypatch.setitem(ARMS, "exp2", Arm("", 2, {"model": "small", "lr": 2e-3}))
    written(tmp_path, WORLD.draw(["exp1", "exp2"], 2, np.random.default_rng(0)), ["exp1", "exp2"], dataset="sample")
    return tmp_path


def test_a_plan_whose_time_is_over_is_judged_all_the_same(
    two_seeds: Path, monkeypatch: pytest.MonkeyPatch, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(
        "sweeper.replication.next_training.affordable", lambda plan, budget: plan
    )  # the forecast was too good
    code, _, err = sweeper("verify", "--protocol", "quick", "--plan", "--budget", "0.001", "--tracking-uri", "offline")
    assert code == 0, err
    assert re.search(r"^warning: the budget sufficed for [01] of 2 planned runs$", err, re.M), err
    assert (two_seeds / "report/quick/ledger.json").exists()
    assert len(list(read_looks(two_seeds / "journal/reproduce-quick.looks.jsonl"))) == 1


def test_a_plan_that_trains_nothing_records_a_report_that_is_missing(
    two_seeds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.replication.next_training.affordable", lambda plan, budget: [])
    env = environment(two_seeds, [])
    found = verify(env.journal, "quick")
    train_next_runs(env, found, budget=0, workers=1)
    train_next_runs(replace(env, tracking_uri="none"), found, budget=600, workers=1)
    with FileLock(two_seeds / "journal/reproduce-quick/.lock"):
        train_next_runs(env, found, budget=600, workers=1)  # another command trains
    assert report_of(two_seeds) is None
    train_next_runs(env, found, budget=600, workers=1)
    assert report_of(two_seeds) == fingerprint(found.runs)


@pytest.mark.parametrize("broken", ["exp1", "all"])
def test_a_plan_that_fails_is_judged_too_and_the_exit_code_is_3(
    broken: str, two_seeds: Path, monkeypatch: pytest.MonkeyPatch, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    def failing(config: RunConfig, data: Any) -> Training:
        if broken == "all" or config.experiment == 1:
            raise TrainingError("no luck")
        return (yield from training(config, data))

    monkeypatch.setattr("sweeper.engine.serial.start", failing)
    monkeypatch.setattr("sweeper.replication.next_training.EngineChoice", lambda **_: EngineChoice("serial"))
    monkeypatch.setattr("sweeper.sweep.driver.SAME_ERROR_FROM_THE_START", 2)
    code, _, err = sweeper("verify", "--protocol", "quick", "--plan", "--tracking-uri", "offline")
    assert code == 3
    if broken == "exp1":
        assert "warning: exp1 seed 2 failed: no luck" in err.splitlines()
        assert "1 of 2 runs failed: exp1 seed 2 (no luck)" in err.splitlines()[-1]
        assert "the budget sufficed" not in err
    else:
        assert err.splitlines()[-1] == "error: the first 2 trials failed alike: no luck"
    result = json.loads((two_seeds / "report/quick/ledger.json").read_text())
    assert len(result["runs"]["exp2"]) == (3 if broken == "exp1" else 2)


def test_runs_of_two_kinds_are_not_continued(tmp_path: Path) -> None:
    found = written(tmp_path, verified(tmp_path, 5).runs, ["exp1", "exp2"])
    start = json.loads((found / "exp1/seed-0/events.jsonl").read_text().splitlines()[0])
    start["params"]["precision"] = "bf16"
    (found / "exp1/seed-0/events.jsonl").write_text(
        "\n".join([json.dumps(start), *(found / "exp1/seed-0/events.jsonl").read_text().splitlines()[1:]]) + "\n"
    )
    env = environment(tmp_path, [])
    judged = verify(env.journal, "quick")
    with pytest.raises(SweeperError, match="several kinds"):
        train_next_runs(env, judged, budget=1e6, workers=1)


# --- the command ----------------------------------------------------------------------------------------------


def written(home: Path, runs: Runs, arms: list[str], protocol: ProtocolName = "quick", **fields: Any) -> Path:
    """The journals of `runs`, as `sweeper reproduce` would have left them."""
    root = home / "journal" / f"reproduce-{protocol}"
    for arm in arms:
        for run in runs[arm]:
            params = arm_config(arm, PROTOCOLS[protocol], run.seed, **fields).to_params()
            tags = {"sweeper.hardware": "a machine", "sweeper.versions": "sweeper 0", "sweeper.threads": "2",
                    "sweeper.dataset": "fashion-mnist"}  # fmt: skip
            epochs = [{k: v for k, v in epoch.items() if k != "epoch"} for epoch in run.epochs]
            events = [
                {"event": "start", "time": 0, "key": "k", "params": params, "tags": tags},
                *({"event": "epoch", "time": 1000 * i, "step": i, "metrics": e} for i, e in enumerate(epochs, 1)),
                {"event": "end", "time": 9000, "status": "FINISHED", "metrics": run.final,
                 "tags": {"sweeper.state": "complete", "sweeper.history_sha256": run.history_sha256}},
            ]  # fmt: skip
            folder = root / arm / f"seed-{run.seed}"
            folder.mkdir(parents=True)
            (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return root


@pytest.fixture
def sweeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process, in an empty folder."""
    for name in [n for n in os.environ if n.startswith(("SWEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweeper", *argv])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0), *capsys.readouterr()

    return call


def test_the_command_prints_the_table_and_writes_the_ledger(
    tmp_path: Path, found: Verified, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    written(tmp_path, found.runs, NAMES)
    code, out, err = sweeper("verify", "--protocol", "quick")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.match(r" 3  exp 2 b.*supported +\S+ \[.*\] (pt|nats) +\d\.\de-\d+  5$", lines[3]), lines[3]
    assert max(map(len, lines[:29])) <= 80
    assert "hardware: a machine" in out
    assert sorted(path.name for path in (tmp_path / "report/quick").iterdir()) == [
        "ledger.html", "ledger.json", "ledger.md", "ledger.png"
    ]  # fmt: skip
    code, out, err = sweeper("verify", "--protocol", "quick", "--journal", str(tmp_path / "journal"), "--json")
    result = json.loads(out.splitlines()[-1])
    assert [claim["verdict"] for claim in result["claims"]] == [entry.verdict for entry in found.judged]
    assert len(list(read_looks(tmp_path / "journal/reproduce-quick.looks.jsonl"))) == 1


def test_the_report_is_of_the_protocol_that_has_runs(
    tmp_path: Path, found: Verified, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = sweeper("report", "reproduce")
    assert (code, err.count("\n")) == (2, 1)
    assert "no finished run of protocol full" in err
    reports = tmp_path / "report"
    written(tmp_path, found.runs, ["exp1"])
    assert sweeper("report", "reproduce")[0] == 0
    assert sorted(path.name for path in reports.iterdir()) == ["reproduce-quick.html", "reproduce-quick.png"]
    written(tmp_path, found.runs, ["exp1"], protocol="full")
    assert sweeper("report", "reproduce")[0] == 0
    assert sorted(path.name for path in reports.glob("*.html")) == ["reproduce-full.html", "reproduce-quick.html"]


def test_a_plan_without_a_budget_only_says_what_it_would_train(
    tmp_path: Path, found: Verified, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    written(tmp_path, found.runs, NAMES)
    code, out, _ = sweeper("verify", "--protocol", "quick", "--plan", "--budget", "0", "--tracking-uri", "offline")
    assert code == 0
    assert re.search(r"^claim +\d+ to \d+ seeds: \d+ runs more, \w+  \(beyond the budget\)", out, re.M)
    assert "nothing to train: the first would take" in out


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 1, "no run of protocol full is recorded in .*; run sweeper reproduce --protocol full"),
        (("--protocol", "quick", "--journal", "nowhere"), 1, "no run of protocol quick is recorded in nowhere"),
        (("--protocol", "half"), 2, "'half' is not one of 'full', 'quick'"),
        (("--plan", "--budget", "soon"), 2, "'soon': a time such as 90s, 30m or 2h"),
        (("--plan", "--journal", "x"), 2, "set SWEEPER_HOME in place of --journal"),
        (("--budget", "30m"), 2, "--budget: for --plan only, .*; add --plan"),
        (("--workers", "1"), 2, "--workers: for --plan only"),
        (("--data-dir", "auto"), 2, "--data-dir: for --plan only"),
    ],
)
def test_what_is_refused(
    argv: tuple[str, ...], code: int, says: str, tmp_path: Path, sweeper: Callable[..., tuple[int, str, str]]
) -> None:
    answer = sweeper("verify", *argv)
    assert answer[0] == code
    assert re.search(says, answer[2]), answer
    assert answer[2].count("\n") == 1
    assert list(tmp_path.iterdir()) == []
