"""The verdicts in docs/results are obtained again: from the recordings there, and from the p-values beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.replication.articles import reproduction
from sweeper.replication.claims.ledger import ALPHA, holm, spent
from sweeper.replication.pages.ledger_json import as_json
from sweeper.replication.recording import journal_of
from sweeper.replication.verify import verify

RESULTS = Path(__file__).parents[2] / "docs/results"
LEDGERS = sorted(RESULTS.glob("*.json"))
RECORDINGS = sorted(RESULTS.glob("*.tar.gz"))
DIGITS = 1e-9  # relative: libraries of other versions


def published(file: Path) -> dict[str, Any]:
    """A ledger as it was published."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def decided(claim: dict[str, Any]) -> list[Any]:
    """What the verdict on a claim rests on, without its numbers."""
    return [claim["claim"], claim["verdict"], claim["arms"], claim["seeds"], [look["seeds"] for look in claim["looks"]]]


def p_values(claim: dict[str, Any]) -> list[float]:
    """The p-values of a claim: corrected, sequential and of each look."""
    looks = [look[side] for look in claim["looks"] for side in ("support", "contradict")]
    return [*claim["p_holm"].values(), *claim["p_sequential"].values(), *looks]


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.name)
def test_the_recording_gives_the_published_verdicts(file: Path) -> None:
    ledger = published(file.with_name(file.name.replace(".tar.gz", ".json")))
    of = reproduction(ledger["article"], ledger["protocol"])
    with journal_of(file, of) as journal:
        found = json.loads(json.dumps(as_json(verify(journal, of))))
    for now, then in zip(found["claims"], ledger["claims"], strict=True):
        assert decided(now) == decided(then)
        assert p_values(now) == pytest.approx(p_values(then), rel=DIGITS)
    hashes = [{(arm, run["seed"], run["history_sha256"]) for arm, runs in each["runs"].items() for run in runs}
              for each in (found, ledger)]  # fmt: skip
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("file", LEDGERS, ids=lambda file: file.name)
def test_the_published_verdicts_follow_from_their_p_values(file: Path) -> None:
    claims = published(file)["claims"]
    p = [
        min([1.0, *(look[side] / spent(look["seeds"]) for look in claim["looks"])])
        for claim in claims
        for side in ("support", "contradict")
    ]
    adjusted = holm(p)
    for claim, support, contradict in zip(claims, adjusted[::2], adjusted[1::2], strict=True):
        assert (support, contradict) == pytest.approx(tuple(claim["p_holm"].values()), rel=DIGITS)
        verdict = "supported" if support <= ALPHA else "contradicted" if contradict <= ALPHA else "inconclusive"
        assert claim["verdict"] in (verdict, "untestable"), claim
        assert verdict == "inconclusive" or claim["verdict"] == verdict


def test_there_are_published_ledgers() -> None:
    assert LEDGERS
