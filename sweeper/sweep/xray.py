"""`sweeper.xray`: the X-ray of any network, with its figure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.core.xray import XRay

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


@dataclass(frozen=True, repr=False)
class ModelXRay(XRay):
    """The X-ray of a network, with `plot`. In a notebook it shows its table."""

    def __repr__(self) -> str:
        return str(self)

    def plot(self, title: str = "X-ray") -> Figure:
        """Draw the variance shift of each BN layer, in the order of their calls, over its noise floor."""
        from sweeper.report.run.xray import shift_figure

        return shift_figure(json.loads(self.json())["layers"], title)


def xray(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    max_batches: int = 16,
    seed: int = 0,
) -> ModelXRay:
    """Measure what BatchNorm and Dropout do to each other in a trained network (docs/how-to/xray-your-model.md).

    The weights, buffers, modes and hooks of `model` and torch's random state are restored afterwards. If the model
    is in eval mode, `model.train()` puts it into the training mode of a pass. If it is in training mode, layers in eval
    mode stay so: they are frozen.

    Args:
        model: any network, in any state, on any device.
        batches: images, or (images, labels), as the model takes them: nothing is normalised. Best are training
            batches, of the size and with the augmentation of the training. Tensors are moved to the model's device.
            Other inputs than images are welcome: a tuple or list of inputs becomes positional arguments of the model
            (in ((first, second), labels)), a mapping its keyword arguments.
        validation: (images, labels) that measure the gain of recalibration; by default `batches`.
        max_batches: number of batches read from each iterable, and kept in memory. Batches of another size than the
            first are left out.
        seed: for Dropout, and torch's other random draws while the batches are read.

    Raises:
        UsageError: an argument cannot be examined. The model's own errors are raised unchanged.
    """
    from sweeper.training.xray.model import examine_model

    return ModelXRay(**vars(examine_model(model, batches, validation, max_batches, seed)))
