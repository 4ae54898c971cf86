"""The share of trials that were pruned, by placement: a pruner that spares one decides the question by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup

from sweeper.core.intervals import accuracy_interval
from sweeper.report.figure import percent
from sweeper.report.page import Value, table, text
from sweeper.report.sweep.rows import SweptTrial


class PrunedShare(NamedTuple):
    """The pruned trials among the finished ones of a placement, with Wilson's 95 % interval of the share."""

    placement: str
    pruned: int
    finished: int
    low: float
    high: float


def pruned_shares(trials: Iterable[SweptTrial]) -> list[PrunedShare]:
    """Return the share of each placement, the highest first."""
    states: dict[str, list[str]] = {}
    for trial in trials:
        if trial.state in ("complete", "pruned") and "placement" in trial.params:
            states.setdefault(str(trial.params["placement"]), []).append(trial.state)
    shares = []
    for placement, of in states.items():
        pruned = of.count("pruned")
        shares.append(PrunedShare(placement, pruned, len(of), *accuracy_interval(pruned / len(of), len(of))))
    return sorted(shares, key=lambda share: (-share.pruned / share.finished, share.placement))


def pruned_by_placement(trials: Iterable[SweptTrial]) -> Markup:
    """Tabulate the shares, and warn if two of them differ; nothing where fewer than two placements were tried."""
    shares = pruned_shares(trials)
    if len(shares) < 2:
        return Markup()
    most, least = max(shares, key=lambda share: share.low), min(shares, key=lambda share: share.high)
    warning = Markup()
    if most.low > least.high:
        warning = text(
            f"The pruner stopped {most.placement} more often than {least.placement}: their intervals do not overlap. "
            "It judges slow starters by fast ones; compare these placements with --pruner none."
        )
    rows: list[list[Value]] = [
        [s.placement, s.pruned, s.finished, percent(s.pruned / s.finished), f"[{100 * s.low:.0f}, {100 * s.high:.0f}]"]
        for s in shares
    ]
    headers = ["Placement", "Pruned", "Finished", "Share", "95% interval, %"]
    return warning + table(headers, rows, caption="Pruned trials by placement, with Wilson's 95% interval.")
