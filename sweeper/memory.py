"""How the process of a training keeps its memory.

The activations of a batch are some megabytes each, allocated and freed at every step. By default glibc hands such
blocks back to the system, which clears each page anew: a fifth of the time of a short training
(benchmarks/cpu_steps.py).
"""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # <malloc.h>
M_MMAP_MAX: Final = -4
NEVER: Final = 2**31 - 1  # bytes on top of the heap, from which on they are handed back


def keep_freed() -> None:
    """Let this process keep the memory that it frees, for what it allocates next; without glibc, nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
