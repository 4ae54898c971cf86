"""The numbers of the BN layers of any network, from passes of batches through it (docs/explanation/xray.md).

    one pass in eval mode                           r; the activations before and after each BN layer
    one pass in training mode                       batch noise; the closed form for Dropout right before BN
    one pass in training mode with Dropout off      recalibrated running statistics
    images with labels, before and after            recalibration gain

The same functions examine the runs of sweeper and the networks of its users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from sweeper.core.xray import Activations, BatchNormLayer, Skipped
from sweeper.training.xray.dropout import DropoutWatch, variance_behind
from sweeper.training.xray.passes import Inputs, Subject, eval_pass, recalibrate, training_pass, unchanged
from sweeper.training.xray.shift import counted, forgetting, joined, mean_of, noise_floor, shift, variation

BINS: Final = 48
HALF_RANGE: Final = 4  # of a histogram, in standard deviations


class Examined(NamedTuple):
    """The BN layers of a network in the order of their first calls, and those without numbers."""

    layers: tuple[BatchNormLayer, ...]
    skipped: tuple[Skipped, ...]


class Score(NamedTuple):
    """The scores of a network on labelled images."""

    accuracy: float
    loss: float  # NLL, in nats


def examine_layers(subject: Subject, positions: Mapping[str, str]) -> Examined:
    """Examine the BN layers of a network.

    `positions` maps names of layers to positions. Any other layer's position is its name.
    """
    names = {layer: name or type(layer).__name__ for name, layer in subject.model.named_modules()}
    reasons = _reasons(subject)
    layers = []
    if len(reasons) < len(subject.norms):
        evaluated, (trained, watch) = eval_pass(subject), training_pass(subject)
        for layer in subject.tracked:
            if layer not in evaluated or layer not in trained:
                reasons.setdefault(layer, f"is not called in {'training' if layer in evaluated else 'evaluation'}")
        for layer, inputs in evaluated.items():
            if layer not in reasons:
                place = names[layer], positions.get(names[layer], names[layer])
                layers.append(_examine(layer, place, inputs, trained[layer], watch, names))
    skipped = (Skipped(names[layer], reasons[layer]) for layer in subject.norms.values() if layer in reasons)
    return Examined(tuple(layers), tuple(skipped))


def recalibration_gain(
    subject: Subject, score: Callable[[], Score], before: Score | None = None
) -> tuple[float, float]:
    """Return the gains of recalibration: in accuracy (after minus before) and in NLL (before minus after).

    `score` evaluates the network of `subject`, and may leave it in eval mode.
    """
    with unchanged(subject.model):
        before = before or score()
    with unchanged(subject.model):
        recalibrate(subject)
        after = score()
    return after.accuracy - before.accuracy, before.loss - after.loss


def _reasons(subject: Subject) -> dict[nn.Module, str]:
    """Return the BN layers that cannot be examined, each with the reason."""
    with unchanged(subject.model):
        subject.enter_training()
        frozen = {layer for layer in subject.norms.values() if not layer.training}
    untracked = set(subject.norms.values()) - set(subject.tracked)
    return dict.fromkeys(frozen, "is frozen: it is in eval mode while the network is in training mode") | dict.fromkeys(
        untracked, "has no running statistics: in evaluation, too, it uses those of the batch"
    )


def _examine(
    layer: Any,
    place: tuple[str, str],
    inputs: Sequence[Sequence[Inputs]],
    trained: Sequence[Sequence[Tensor]],
    watch: DropoutWatch,
    names: Mapping[nn.Module, str],
) -> BatchNormLayer:
    """Return the numbers of a BN layer from its calls in eval mode and in training mode, batch by batch.

    `place` is its name and its position.
    """
    r, m = (
        torch.stack([joined(calls, layer.momentum) for calls in batches])  # (K, C)
        for batches in ([[call.variances for call in calls] for calls in inputs], trained)
    )
    dropout, expected = _dropout_before(layer, trained, watch)
    earlier = watch.earlier.get(layer)
    before, after = _sides(layer, Inputs.stack([call for calls in inputs for call in calls]))
    return BatchNormLayer(
        *place,
        layer.num_features,
        before=before,
        after=after,
        dropout=names[dropout] if dropout else "",
        earlier=names[earlier] if earlier else "",
        **_compare(layer, r, m, expected, len(trained[0])),
    )


def _dropout_before(
    layer: nn.Module, trained: Sequence[Sequence[Tensor]], watch: DropoutWatch
) -> tuple[Any, Tensor | None]:
    """Return the Dropout right before each call of a BN layer, and the batch variance by the closed form.

    Only a layer that is called once in a batch has a closed form.
    """
    found = watch.before.get(layer, [])
    if not found or len(found) != sum(map(len, trained)):
        return None, None
    dropout: Any = found[0][0]
    once = len(found) == len(trained)
    return dropout, variance_behind([entered for _, entered in found], dropout.p) if once else None


def _compare(layer: Any, evaluated: Tensor, trained: Tensor, expected: Tensor | None, calls: int) -> dict[str, Any]:
    """Return the numbers of a BN layer.

    Args:
        layer: the layer, with its running statistics.
        evaluated: batch variances of its input in eval mode, `(K, C)`.
        trained: the same in training mode.
        expected: the batch variance by the closed form, `(C,)`, with Dropout right before the layer.
        calls: number of calls in a batch.
    """
    r, m, eps = evaluated.mean(0), layer.running_var, layer.eps
    floor = noise_floor(variation(trained), variation(evaluated), forgetting(layer, calls), len(evaluated))
    return shift(r, m, eps)._asdict() | {
        "floor": mean_of(floor, counted(r, m, eps)),
        "closed_form": math.nan if expected is None else shift(r, expected, eps).ratio,
        "batch_noise": mean_of(variation(trained), trained.mean(0) > eps),
    }


def _sides(layer: Any, inputs: Inputs) -> tuple[Activations, Activations]:
    """Return the activations before and after a BN layer.

    In eval mode the layer is an affine function of each channel: moments and extremes before it give those after it.
    """
    mean = inputs.means.mean(0)
    variance = inputs.variances.mean(0) + inputs.means.var(0, correction=0)
    low, high = inputs.lowest.amin(0), inputs.highest.amax(0)
    sample = inputs.samples.flatten(0, 1)
    slope, offset = _line(layer)
    highest_after = torch.maximum(slope * low, slope * high) + offset
    return (
        _activations(mean, variance, high, sample),
        _activations(slope * mean + offset, slope.square() * variance, highest_after, slope * sample + offset),
    )


def _line(layer: Any) -> tuple[Tensor, Tensor]:
    """Return the slope and the offset of a BN layer in eval mode, `(C,)`."""
    scale = (layer.running_var + layer.eps).sqrt()
    if layer.weight is None:
        return 1 / scale, -layer.running_mean / scale
    slope = layer.weight / scale
    return slope, layer.bias - slope * layer.running_mean


def _activations(mean: Tensor, variance: Tensor, highest: Tensor, sample: Tensor) -> Activations:
    """Summarise channels by their means, variances and largest values, `(C,)`, and by a sample of their values."""
    center = mean.mean().item()
    total = (variance.mean() + mean.var(correction=0)).item()
    low, high, shares = _histogram(sample, center, HALF_RANGE * math.sqrt(total))
    return Activations(center, total, (highest <= 0).float().mean().item(), low, high, shares)


def _histogram(sample: Tensor, center: float, half: float) -> tuple[float, float, tuple[float, ...]]:
    """Return the ends of the bins and the share of `sample` in each; no bins if a value is not finite."""
    if not math.isfinite(center + half):
        return math.nan, math.nan, ()
    low, high = (center - half, center + half) if half > 0 else (center - 0.5, center + 0.5)
    counts = sample.clamp(low, high).histc(BINS, low, high)
    return low, high, tuple((counts / counts.sum()).tolist())
