"""Take the X-ray of any network on batches of its user; `sweeper.xray` is the public name."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from sweeper.core.errors import UsageError
from sweeper.core.xray import XRay
from sweeper.training.seeds import forked
from sweeper.training.xray.layers import Score, examine_layers, recalibration_gain
from sweeper.training.xray.passes import Subject

MISSING: Final = Score(math.nan, math.nan)
Batch = tuple[Any, Tensor | None]  # what the network takes, and labels


@torch.no_grad()
def examine_model(
    model: nn.Module, batches: Iterable[Any], validation: Iterable[Any] | None, max_batches: int, seed: int
) -> XRay:
    """Return the X-ray of `model`, as `sweeper.xray` describes it.

    Raises:
        UsageError: an argument cannot be examined. An error of the model's own is raised as it is.
    """
    _check(model, max_batches)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module  # hooks see the calls of the module itself
    tensors = [*model.parameters(), *model.buffers()]
    home = tensors[0].device if tensors else torch.device("cpu")
    with forked(seed, {tensor.device for tensor in tensors}), _eager():
        held = _hold(batches, max_batches)
        labelled = held if validation is None else _hold(validation, max_batches)
        subject = Subject(model, [inputs for inputs, _ in held], lambda inputs: _call(model, _to(inputs, home)))
        layers, skipped = examine_layers(subject, {})
        gain = recalibration_gain(subject, lambda: _score(subject, labelled)) if layers else MISSING
    images = sum(_size(inputs) for inputs, _ in held) if layers else 0
    return XRay(layers, images, *gain, skipped=skipped)


def _check(model: Any, max_batches: int) -> None:
    """Raise a UsageError unless `model` is a network with weights whose hooks are called."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}. Pass a torch.nn.Module.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("model is compiled by TorchScript, which calls no hooks. Pass the original module.")
    if any(map(is_lazy, itertools.chain(model.parameters(), model.buffers()))):
        raise UsageError("model has lazy layers without weights. Run the model on a batch first.")
    if max_batches < 1:
        raise UsageError(f"max_batches={max_batches}: use 1 or more.")


def _eager() -> AbstractContextManager[Any]:
    """Run modules that torch.compile has wrapped uncompiled: compiled code calls no hooks."""
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _hold(batches: Iterable[Any], most: int) -> list[Batch]:
    """Return up to `most` batches, without those that differ in size from the first.

    Raises:
        UsageError: there is no batch, or one is a tuple but not (images, labels).
    """
    held = [_batch(batch) for batch in itertools.islice(batches, most)]
    if not held:
        raise UsageError("batches is empty. If it is a generator, create a new one: it can be read only once.")
    return [batch for batch in held if _size(batch[0]) == _size(held[0][0])]


def _batch(batch: Any) -> Batch:
    if not isinstance(batch, list | tuple):
        return batch, None
    if len(batch) not in (1, 2):
        raise UsageError(
            f"a batch is a {type(batch).__name__} of {len(batch)} parts. Pass images, or (images, labels); a model of "
            "several inputs takes ((first, second), labels)."
        )
    labels = batch[1] if len(batch) == 2 else None
    return batch[0], labels if isinstance(labels, Tensor) else None


def _size(inputs: Any) -> int:
    """Return the number of images in a batch; 0 if it is not known."""
    if isinstance(inputs, Mapping):
        return _size(list(inputs.values()))
    if isinstance(inputs, list | tuple):
        return _size(inputs[0]) if inputs else 0
    return len(inputs) if isinstance(inputs, Tensor) and inputs.dim() else 0


def _to(inputs: Any, device: torch.device) -> Any:
    """Return a batch with copies of its tensors on `device`, which the network may change in place."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, copy=True)
    if isinstance(inputs, Mapping):
        return {name: _to(value, device) for name, value in inputs.items()}
    return [_to(value, device) for value in inputs] if isinstance(inputs, list | tuple) else inputs


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list) else model(inputs)


def _score(subject: Subject, batches: Iterable[Batch]) -> Score:
    """Return accuracy and NLL of the network in eval mode; NaN where a batch has no labels that are class numbers."""
    subject.model.eval()
    correct, loss, count = 0, 0.0, 0
    for inputs, labels in batches:
        logits = subject.forward(inputs)
        classes = _classes(labels, logits)
        if classes is None:
            return MISSING
        loss += F.cross_entropy(logits.float(), classes, reduction="sum").item()
        correct += int((logits.argmax(1) == classes).sum())
        count += classes.numel()
    return Score(correct / count, loss / count)


def _classes(labels: Tensor | None, logits: Any) -> Tensor | None:
    """Return `labels` as class numbers for logits `(B, K, …)`, on the logits' device; None if they are not."""
    if labels is None or not isinstance(logits, Tensor) or logits.dim() < 2 or not logits.is_floating_point():
        return None
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    if not whole or not labels.numel() or labels.shape != logits.shape[:1] + logits.shape[2:]:
        return None
    fit = int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]
    return labels.to(logits.device).long() if fit else None
