"""Training failures: divergence, out of memory, and everything else."""

from __future__ import annotations

import math
import traceback
from typing import Final

import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, OutOfMemory, TrainingError, UsageError

RUNAWAY: Final = 20  # times the loss of a uniform guess


def check_converging(config: RunConfig, classes: int, epoch: int, lr: float, *losses: float) -> None:
    """Check that training may continue after `epoch`.

    Raises:
        Diverged: one of `losses`, in nats, is not finite, or above `RUNAWAY` times that of a uniform guess.
    """
    worst, most = next((x for x in losses if not math.isfinite(x)), max(losses)), RUNAWAY * math.log(classes)
    if not math.isfinite(worst) or worst > most:
        raise Diverged(
            f"loss {worst:.4g} after epoch {epoch}, above {most:.0f} or not finite, "
            f"at lr={lr:.4g}, placement={config.placement.value}. Try a lower lr."
        )


def explain(error: Exception) -> TrainingError | UsageError:
    """Convert any training error to one of ours: a one-line message, with the traceback in `details`."""
    if isinstance(error, TrainingError | UsageError):
        return error
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    kind = OutOfMemory if no_memory else TrainingError
    message = " ".join(str(error).split())[:300]
    explained = kind(f"{type(error).__name__}: {message}")
    explained.details = "".join(traceback.format_exception(error))
    return explained
