"""Orders to the driver of a study: attributes of the study in its database, so that any machine can set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

WANTED: Final = "wanted"  # what the driver should do:
RUN, PAUSE, STOP = "run", "pause", "stop"
WORKERS: Final = "wanted_workers"  # how many runs at a time
SKIP: Final = "skip."  # and the number of a trial that shall end


class Orders(NamedTuple):
    """The orders to the driver of a study."""

    wanted: str = RUN
    workers: int | None = None
    skipped: frozenset[int] = frozenset()


def read_orders(attributes: Mapping[str, Any]) -> Orders:
    """Return the orders among a study's attributes."""
    skipped = frozenset(int(name.removeprefix(SKIP)) for name in attributes if name.startswith(SKIP))
    return Orders(attributes.get(WANTED) or RUN, attributes.get(WORKERS), skipped)
