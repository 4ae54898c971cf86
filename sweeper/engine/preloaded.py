"""What workers have from the moment they are forked; imported by the process that they are forked from alone.

Garbage collection never visits it: there is nothing to be found, and its marks would copy pages that all workers share.
"""

from __future__ import annotations

import gc

gc.disable()
import sweeper.engine.processes  # noqa: E402
import sweeper.training.start  # noqa: E402, F401

gc.freeze()
gc.enable()
