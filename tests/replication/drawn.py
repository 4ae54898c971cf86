"""Ledgers of a simulated world, and its runs as journals: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.core.environment import Environment
from sweeper.replication.article import Reproduction
from sweeper.replication.articles import reproduction
from sweeper.replication.claims.ledger import Ledger, Runs
from sweeper.replication.verify import judge_runs
from tests.support.worlds import World

FULL, QUICK, QUICK_6 = (reproduction(protocol=name) for name in ("full", "quick", "quick-6"))
NAMES = sorted({arm for claim in QUICK.claims() for arm in claim.question.arms} & set(QUICK.select()))
WORLD = (
    World()
    .but("exp2", accuracy=0.97, nll=0.18)
    .but("bn-constant", accuracy=0.93)
    .but("exp5", nll=0.255)
    .but("exp8", accuracy=0.953)
)
TAGS = {"sweeper.hardware": "a machine", "sweeper.versions": "sweeper 0", "sweeper.threads": "2",
        "sweeper.dataset": "fashion-mnist"}  # fmt: skip


def verified(home: Path, seeds: int = 5) -> Ledger:
    """The ledger of WORLD, judged as from the journal of `home`."""
    return judge_runs(home / "journal", QUICK, WORLD.draw(NAMES, seeds, np.random.default_rng(0)))


def environment(home: Path, said: list[str]) -> Environment:
    """An offline environment whose warnings and lines go to `said`."""
    return Environment(home, "offline", "", None, json_output=False, warn=said.append, say=said.append)


def written(home: Path, runs: Runs, arms: list[str], of: Reproduction = QUICK, **fields: Any) -> Path:
    """The journals of `runs`, as `sweeper reproduce` would have left them."""
    root = home / "journal"
    for arm in arms:
        for run in runs[arm]:
            params = of.config(arm, run.seed, **fields).to_params()
            epochs = [{k: v for k, v in epoch.items() if k != "epoch"} for epoch in run.epochs]
            events = [
                {"event": "start", "time": 0, "key": "k", "name": "run", "params": params, "description": "",
                 "tags": TAGS, "dataset": {}, "run_id": None},
                *({"event": "epoch", "time": 1000 * i, "step": i, "metrics": e} for i, e in enumerate(epochs, 1)),
                {"event": "end", "time": 9000, "status": "FINISHED", "metrics": run.final,
                 "tags": {"sweeper.state": "complete", "sweeper.history_sha256": run.history_sha256}},
            ]  # fmt: skip
            folder = root / of.folder_of(arm) / f"seed-{run.seed}"
            folder.mkdir(parents=True)
            (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return root / of.folder
