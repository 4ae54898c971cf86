"""The ledger as JSON, on a terminal, as Markdown, as a page and as a figure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweeper.replication.claims.ledger import ALPHA, Ledger, holm
from sweeper.replication.pages.ledger import (
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
from sweeper.replication.pages.ledger_json import as_json
from sweeper.replication.pages.ledger_page import html
from sweeper.replication.verify import judge_runs
from tests.replication.drawn import QUICK, WORLD, verified

LINK = "http://127.0.0.1:5000/#/x/abc"


def test_the_verdicts_can_be_redone_from_the_json(ledger: Ledger) -> None:
    written = json.loads(json.dumps(as_json(ledger), allow_nan=False))["claims"]
    p = [
        min([1.0, *(look[side] / look["share_of_alpha"] for look in claim["looks"])])
        for claim in written
        for side in ("support", "contradict")
    ]
    adjusted = holm(p)
    for claim, support, contradict in zip(written, adjusted[::2], adjusted[1::2], strict=True):
        verdict = "supported" if support <= ALPHA else "contradicted" if contradict <= ALPHA else "inconclusive"
        assert claim["verdict"] == (verdict if claim["looks"] else "untestable"), claim
    assert {claim["verdict"] for claim in written} == {"supported", "contradicted", "inconclusive", "untestable"}


def test_the_json_names_every_run_and_every_test(ledger: Ledger) -> None:
    result = as_json(ledger)
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
    assert all(re.search(r"  5(  +>?\d+)?$", line) for line in lines[1:] if "untestable" not in line), lines
    assert all(re.search(r"  5  +>?\d+$", line) for line in lines[1:] if "inconclusive" in line)


def test_the_reasons_of_untestable_claims_are_listed_once(ledger: Ledger) -> None:
    def unlike(count: int) -> Ledger:
        judged = [replace(e, verdict="untestable", why_not=f"reason {e.claim.number % count}") for e in ledger.judged]
        return replace(ledger, judged=judged)

    assert untestable(ledger, 200) == [
        "untestable 16: protocol quick does not train exp8; use --protocol full",
        f"untestable 17: {ledger.judged[16].reason}",
    ]
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


def test_the_page_escapes_names_and_links_runs(ledger: Ledger) -> None:
    evil = "<script>alert(1)</script>"
    runs = [ledger.runs["exp2"][seed]._replace(run_id=name) for seed, name in enumerate(("abc", None, "other"))]
    page = html(replace(ledger, runs={evil: runs[:2], "exp2": runs}, links={"abc": LINK})).decode()
    assert evil not in page
    assert "&lt;script&gt;" in page
    assert f'<a href="{LINK}">seed 0</a> seed 1</td>' in page
    assert f'exp2 <a href="{LINK}">0</a>, exp1</td>' in page  # claim 3, in the table
    assert page.count("two one-sided tests, Welch&#39;s t") == 2  # claim 8: in the table, and where it opens
    assert "and 12 more, below" in page  # claim 21
    assert "Content-Security-Policy" in page
    assert "Under our declared instantiation" in page
    words = [entry.claim.question.words for entry in ledger.judged]
    assert all(w.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in page for w in words)


def test_the_figure_is_the_same_each_time(ledger: Ledger) -> None:
    assert forest(ledger) == forest(ledger)
    assert len(forest(replace(ledger, judged=[]))) < len(forest(ledger))


def test_right_of_zero_favours_a_claim(ledger: Ledger) -> None:
    lower = ledger.judged[10].shown
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
    shown = [p_value(p) for p in (1.0, 0.25, 0.0512, 0.00123, 3.1e-5, 1e-12)]
    assert shown == ["1.00", "0.25", "0.051", "0.001", "3.1e-5", "1.0e-12"]


def test_n_is_that_of_the_test_that_decides(tmp_path: Path) -> None:
    runs = WORLD.draw(["exp4", "exp5", "exp8", "exp1", "exp2"], 5, np.random.default_rng(0))
    runs["exp4"] = runs["exp4"][:1] + runs["exp4"][2:]  # without seed 1: four runs, one in a row
    ledger = judge_runs(tmp_path, QUICK, runs)
    ninth = ledger.judged[8]
    assert (ninth.shown.counts, n_runs(ninth.shown), looks(ninth)) == ({"exp5": 5, "exp4": 4}, "4-5", "-")
    assert (n_runs(ledger.judged[2].shown), looks(ledger.judged[2])) == ("5", "3, 5")
    assert n_runs(ledger.judged[16].shown) == "5"  # untestable: the runs that there are
    assert n_runs(ledger.judged[24].shown) == "0"
    assert ninth.shown.method == "Welch's t"
    assert re.search(r"  -  4-5( +>?\d+)?$", text_table(ledger, 200)[9])


def test_from_one_run_of_an_arm_no_number_of_seeds_is_foretold(tmp_path: Path) -> None:
    judged = verified(tmp_path, 1).judged
    assert {(entry.verdict, entry.takes) for entry in judged} == {("inconclusive", ""), ("untestable", "")}
    assert judged[2].reason == "n=1: the first interim analysis is at 3 seeds of each arm"
    assert verified(tmp_path, 2).judged[2].takes
