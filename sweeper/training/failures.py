"""Why a training failed: divergence, memory, anything else."""

from __future__ import annotations

import math
import traceback
from typing import Final

import torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged, OutOfMemory, TrainingError, UsageError
from sweeper.core.images import CLASSES
from sweeper.core.results import EpochResult as EpochResult
from sweeper.core.results import Evaluation as Evaluation
from sweeper.core.results import Training as Training
from sweeper.core.results import TrainResult as TrainResult

RUNAWAY_LOSS: Final = 20 * math.log(len(CLASSES))  # twenty times the loss of a uniform guess, in nats


def check_converging(config: RunConfig, epoch: int, lr: float, *losses: float) -> None:
    """Return if a training may go on.

    Raises:
        Diverged: one of `losses` is not finite, or above `RUNAWAY_LOSS`.
    """
    worst = next((x for x in losses if not math.isfinite(x)), max(losses))
    if not math.isfinite(worst) or worst > RUNAWAY_LOSS:
        raise Diverged(
            f"loss {worst:.4g} after epoch {epoch}, above {RUNAWAY_LOSS:.0f} or not finite, "
            f"at lr={lr:.4g}, placement={config.placement.value}: lower lr"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device or the machine has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def explain(error: Exception) -> TrainingError | UsageError:
    """Any error of a training as one of ours, in one line, with its traceback as `details`."""
    if isinstance(error, TrainingError | UsageError):
        return error
    kind = OutOfMemory if out_of_memory(error) else TrainingError
    explained = kind(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    explained.details = "".join(traceback.format_exception(error))
    return explained
