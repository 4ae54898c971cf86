"""What a child process does with splits that it is given; it has no torch."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from sweeper.data.splits import Split


def change_and_read(given: list[Split], pipe: Connection) -> None:
    """Change what is shared; once the parent has changed it too, say what is in it, and whether torch is here."""
    given[0].train.pixels[0, 0, 0] = 77
    pipe.send(None)
    pipe.recv()
    pipe.send(([int(array.sum()) for split in given for array in split.arrays()], "torch" in sys.modules))
