"""Why a run ended without a result, in words and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sweeper.core.config import finite
from sweeper.core.errors import OutOfTime, TrainingError, UsageError
from sweeper.core.metric import Metric

TRACEBACK_CHARACTERS: Final = 4_000  # MLflow takes 8,000 in a tag


def out_of_time(finished: int, target: int) -> OutOfTime:
    """Return the error of a command that did not finish all trials before its deadline."""
    return OutOfTime(
        f"{finished} of {target} trials finished before --timeout. Run the same command again to continue."
    )


def too_bad(metric: Metric, epoch: int) -> str:
    """Explain that the pruner ended a trial after an epoch, because of its metric values."""
    bar = "below the lower quartile" if metric.maximized else "above the upper quartile"
    return (
        f"pruned after epoch {epoch}: its best {metric.noun} so far is {bar}, or the median, of the complete trials at "
        "that epoch"
    )


def not_finite(metrics: Mapping[str, float]) -> str:
    """Name the first metric that is NaN or infinite, or return an empty string. Such a value is recorded nowhere."""
    return next((f"{name} is {value}" for name, value in metrics.items() if not finite(value)), "")


def details_of(error: TrainingError | UsageError) -> str:
    """Return the traceback of a failed run; the end of a long one, where the error is."""
    return error.details[-TRACEBACK_CHARACTERS:] if isinstance(error, TrainingError) else ""


def reason_tags(error: TrainingError | UsageError) -> dict[str, str]:
    """Return the tags that explain why a run failed."""
    details = details_of(error)
    return {"sweeper.reason": str(error)} | ({"sweeper.traceback": details} if details else {})
