"""Measure how stable training is: the spread of its gradient norms, and the number of loss spikes.

The loop writes into tensors on its device, which are read at the end of an epoch: no step waits for the device.
"""

from __future__ import annotations

import math
import statistics
from typing import Final

import torch
from torch import Tensor

from sweeper.core.results import Stability

GRAD_NORM_EVERY: Final = 8  # steps
WINDOW: Final = 51  # steps before the one that is judged
SPIKE_MADS: Final = 5


class Recorder:
    """Summarises the epochs of a run. Its steps write to `losses` `(steps,)` and `norms` `(ceil(steps / 8),)`."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.norms = torch.zeros(math.ceil(steps / GRAD_NORM_EVERY), device=device)
        self._before = torch.empty(0)  # the last losses of earlier epochs
        self._variations: list[float] = []
        self._spikes = self._nonfinite = 0

    def end_epoch(self) -> None:
        """Read the tensors of an epoch, before the next one overwrites them."""
        losses, norms = self.losses.cpu(), self.norms.cpu()
        self._nonfinite += int((~losses.isfinite()).sum() + (~norms.isfinite()).sum())
        if len(norms) > 1:
            self._variations.append(float(norms.std() / norms.mean()))
        row = torch.cat([self._before, losses])
        self._spikes += count_spikes(row)
        self._before = row[-WINDOW:].clone()

    @property
    def stability(self) -> Stability:
        """The stability of the epochs so far."""
        variation = statistics.fmean(self._variations) if self._variations else math.nan
        return Stability(variation, self._spikes, self._nonfinite)


def count_spikes(losses: Tensor) -> int:
    """Count the `losses` `(N,)` above median + 5 MAD of the 51 before them; the first 51 are not judged."""
    if len(losses) <= WINDOW:
        return 0
    windows = losses.unfold(0, WINDOW, 1)[:-1]  # (N - 51, 51)
    median = windows.median(1).values
    mad = (windows - median[:, None]).abs().median(1).values
    return int((losses[WINDOW:] > median + SPIKE_MADS * mad).sum())
