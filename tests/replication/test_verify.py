"""The files of the ledger, the record of interim analyses, and the command."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweeper.core.environment import EXPERIMENT
from sweeper.core.errors import SweeperError, UsageError
from sweeper.replication.claims.ledger import Ledger
from sweeper.replication.claims.looks import fingerprint, looks_file, read_looks, record_look
from sweeper.replication.pages.page import finished_runs
from sweeper.replication.verify import judge_runs, publish
from tests.replication.conftest import Command
from tests.replication.drawn import FULL, NAMES, QUICK, WORLD, environment, verified, written

pytest_plugins = ["tests.support.mlflow_store"]


def test_the_printed_json_is_that_of_the_file_and_names_its_folder(tmp_path: Path, ledger: Ledger) -> None:
    _, result = publish(environment(tmp_path, []), ledger)
    read = json.loads((tmp_path / "report/quick/ledger.json").read_text())
    assert json.loads(json.dumps(result)) == read | {"report": str(tmp_path / "report/quick")}


# --- looks ----------------------------------------------------------------------------------------------------


def test_a_look_at_the_same_runs_is_recorded_once(tmp_path: Path) -> None:
    three, five = verified(tmp_path, 3), verified(tmp_path, 5)
    assert [record_look(three), record_look(three), record_look(five), record_look(five)] == [True, False, True, False]
    looks = list(read_looks(looks_file(five)))
    assert [look["runs"] for look in looks] == [fingerprint(three.runs), fingerprint(five.runs)]
    assert [look["claims"][2]["looks"] for look in looks] == [[3], [3, 5]]
    assert [look["claims"][2]["alpha_spent"] for look in looks] == [1 / 16, 1 / 2]
    assert looks_file(five) == tmp_path / "journal/reproduce-quick-30.looks.jsonl"


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
    tmp_path: Path, ledger: Ledger, empty_store: Path, sweeper: Command
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = client.create_run(client.create_experiment(EXPERIMENT)).info.run_id
    root = written(tmp_path, ledger.runs, ["exp1", "exp2"])
    for seed, store in ((0, "sqlite:///mlflow.db"), (1, "http://elsewhere:5000")):
        state = {"store": store, "run_id": run_id if seed == 0 else "f" * 32, "events": 8}
        (root / f"exp1/seed-{seed}/upload.json").write_text(json.dumps(state))
    assert sweeper("verify", "--protocol", "quick")[0] == 0
    assert sweeper("report", "--replication")[0] == 0
    code, _, err = sweeper("report", "reproduce")
    assert (code, err) == (
        0,
        "warning: sweeper report reproduce is now sweeper report --replication. Use the new form.\n",
    )
    for page in ("report/quick/ledger.html", "report/quick/ledger.md", "report/reproduce-quick-30.html"):
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
        replace(environment(tmp_path, said), tracking_uri=uri), judge_runs(tmp_path, QUICK, {"exp1": [run]})
    )
    assert (result["links"], result["runs"]["exp1"][0]["run_id"]) == ({}, "abc")
    assert [line.startswith("the ledger has no links to MLflow: ") for line in said] == [True] * uri.startswith("http")
    assert not (tmp_path / "other.db").exists()


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_the_ledger(tmp_path: Path, ledger: Ledger, sweeper: Command) -> None:
    written(tmp_path, ledger.runs, NAMES)
    code, out, err = sweeper("verify", "--protocol", "quick")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.match(r" 3  exp 2 b.*supported +\S+ \[.*\] (pt|nats) +\d\.\de-\d+ +5$", lines[3]), lines[3]
    assert max(map(len, lines[:29])) <= 80
    assert "hardware: a machine" in out
    assert sorted(path.name for path in (tmp_path / "report/quick").iterdir()) == [
        "ledger.html", "ledger.json", "ledger.md", "ledger.png"
    ]  # fmt: skip
    code, out, err = sweeper("verify", "--protocol", "quick", "--journal", str(tmp_path / "journal"), "--json")
    result = json.loads(out.splitlines()[-1])
    assert [claim["verdict"] for claim in result["claims"]] == [entry.verdict for entry in ledger.judged]
    assert len(list(read_looks(tmp_path / "journal/reproduce-quick-30.looks.jsonl"))) == 1


def test_the_report_is_of_the_protocol_that_has_runs(tmp_path: Path, ledger: Ledger) -> None:
    env = environment(tmp_path, [])
    with pytest.raises(UsageError, match=r"holds no finished run of protocol full\. Run sweeper reproduce"):
        finished_runs(env, QUICK.article)
    for of in (QUICK, FULL):  # full comes first if both have runs
        written(tmp_path, ledger.runs, ["exp1"], of)
        found, runs = finished_runs(env, QUICK.article)
        assert (found, list(runs), len(runs["exp1"])) == (of, ["exp1"], 5)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 1, r"holds no finished run of protocol full\. Run sweeper reproduce --protocol full\."),
        (("--protocol", "quick", "--journal", "nowhere"), 1, "nowhere holds no finished run of protocol quick"),
        (("--protocol", "half"), 2, "'half' is not one of 'full', 'quick'"),
        (("--train", "--budget", "soon"), 2, "'soon' is not a time such as 90s, 30m or 2h"),
        (("--train", "--journal", "x"), 2, "Set SWEEPER_HOME instead of --journal"),
        (("--budget", "30m"), 2, "--budget only works with --train. Add --train"),
        (("--workers", "1"), 2, "--workers only works with --train"),
        (("--data-dir", "auto"), 2, "--data-dir only works with --train"),
    ],
)
def test_what_is_refused(argv: tuple[str, ...], code: int, says: str, tmp_path: Path, sweeper: Command) -> None:
    answer = sweeper("verify", *argv)
    assert answer[0] == code
    assert re.search(says, answer[2]), answer
    assert answer[2].count("\n") == 1
    assert list(tmp_path.iterdir()) == []
