"""`sweeper status` of a reproduction: its runs, time, and the arms so far."""

from __future__ import annotations

from typing import Any

from sweeper.core.environment import Environment
from sweeper.core.text import duration
from sweeper.replication.article import Reproduction
from sweeper.replication.articles import ARTICLES, find_article
from sweeper.replication.plan import order
from sweeper.replication.runs import ArmSummary, read_runs, summarise, table
from sweeper.sweep.recorded import standing


def is_reproduction(env: Environment, name: str) -> bool:
    """Return True if a journal folder holds a reproduction."""
    return (env.journal / name).is_dir()


def show_status(env: Environment, name: str) -> dict[str, Any]:
    """Print the progress of the reproduction in a journal folder, and return the JSON that `--json` prints.

    Of a claims file, which the folder does not name, it shows the number of runs alone.
    """
    of, now = _reproduction(name), standing(env.journal, name)
    arms = _arms(env, of) if of else []
    done = sum(arm.complete + arm.diverged for arm in arms) if of else sum(run.finished for run in now.runs)
    planned = _planned(of) if of else None
    number = f"{done} runs" if planned is None or done > planned else f"{done}/{planned} runs of the protocol"
    env.say(f"{name}: {now.how}, {number} finished, {duration(now.seconds())} used")
    for line in [*now.running_lines(), *(table(arms) if arms else [])]:
        env.say(line)
    return {
        "reproduction": name, "finished": done, "planned": planned, "seconds": now.seconds(), **now.plain(),
        "ranking": [arm._asdict() for arm in arms],
    }  # fmt: skip


def _reproduction(name: str) -> Reproduction | None:
    """Return the reproduction whose runs are in the journal folder with this name."""
    articles = [find_article(each) for each in ARTICLES]
    every = [Reproduction(article, protocol) for article in articles for protocol in article.protocols]
    return next((each for each in every if each.folder == name), None)


def _arms(env: Environment, of: Reproduction) -> list[ArmSummary]:
    """Return the arms that have runs, the most accurate first."""
    arms = [summarise(arm, runs) for arm, runs in read_runs(env.journal, of).items()]
    return sorted(arms, key=lambda arm: -(arm.val_accuracy or 0))


def _planned(of: Reproduction) -> int:
    """Return the number of runs that its protocol has, if no option changes it."""
    seeds, most = of.protocol.seeds, of.protocol.at_most
    return sum(seed < most.get(arm, seeds) for arm, seed in order(of, of.select(), seeds))
