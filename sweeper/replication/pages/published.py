"""The numbers that the article reports for each experiment."""

from __future__ import annotations

from typing import Final, NamedTuple

from sweeper.replication.pages.charts import Runs, complete
from sweeper.replication.runs import ArmRun


class Published(NamedTuple):
    """The article's report on one of its experiments."""

    figure: int
    words: str
    accuracy: float | None = None


PUBLISHED: Final = {
    1: Published(4, "at its capacity; more training widens the gap"),
    2: Published(5, "overfits quickly, still better than 1"),
    3: Published(6, "better than 2; generalises"),
    4: Published(7, "accuracy and loss improve; still overfits"),
    5: Published(8, "accuracy about as 4, loss better, overfits more slowly"),
    6: Published(9, "accuracy +0.001, loss much better, overfits again"),
    7: Published(10, "best so far; losses fall to the last epoch; tiny gap"),
    8: Published(11, "best: 0.948", 0.948),
}


def complete_experiments(runs: Runs) -> dict[int, list[ArmRun]]:
    """The complete runs of those of the eight experiments that have one."""
    found = {number: complete(runs.get(f"exp{number}", [])) for number in PUBLISHED}
    return {number: of_arm for number, of_arm in found.items() if of_arm}
