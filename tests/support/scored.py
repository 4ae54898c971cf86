"""The final metrics of a run that was not trained."""

from __future__ import annotations

from sweeper.core.metric import ACCURACY, ECE, LOSS


def scored(accuracy: float, loss: float, ece: float = 0.1) -> dict[str, float]:
    return {ACCURACY.final: accuracy, LOSS.final: loss, ECE.final: ece}
