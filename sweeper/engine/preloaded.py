"""Import everything that workers need; only the server that they are forked from imports this module.

Garbage collection skips these objects: it would find nothing, and its marks would copy pages that all workers share.
"""

from __future__ import annotations

import gc

gc.disable()
import sweeper.engine.processes  # noqa: E402
import sweeper.training.start  # noqa: E402, F401

gc.freeze()
gc.enable()
