"""Follow the tensors from Dropout layers to BN layers, for the closed form of the X-ray (docs/xray.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sweeper.training.xray.shift import by_channel, dropped_variance

Dropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


class Entered(NamedTuple):
    """The moments of a Dropout layer's input in one batch, `(C,)` each."""

    mean: Tensor
    square: Tensor  # mean of x²
    image_square: Tensor  # mean over images of the square of what shares a mask, as `dropped_variance` takes it
    images: int
    values: int  # of a channel

    @classmethod
    def of(cls, x: Tensor, layer: Any) -> Entered:
        """Measure `x` `(B, C)` or `(B, C, …)`, the input of `layer`.

        nn.Dropout draws a mask for each of the S values of an image, so the masks of one image average out: in the
        square of an image's mean, only 1/S of the share 1 - p of x² is left.
        """
        x = x.float()
        values = by_channel(x)
        of_images = x.flatten(2).mean(2) if x.dim() > 2 else x  # (B, C)
        square, image_square = values.square().mean(0), of_images.square().mean(0)
        if isinstance(layer, nn.Dropout) and x.dim() > 2:
            image_square = (1 - layer.p) * image_square + layer.p * square * len(x) / len(values)
        return cls(values.mean(0), square, image_square, len(x), len(values))


class Passed(NamedTuple):
    """One call of a Dropout layer."""

    layer: nn.Module
    output: Tensor
    stamp: Tensor  # of the output, when the layer returned it
    entered: Entered


class DropoutWatch:
    """Hooks for a pass in training mode. They find the Dropout layer before each BN layer, if there is one.

    Dropout is right before a BN layer if the BN layer takes the very tensor that Dropout returned, and nothing has
    changed that tensor in place. From the second batch on, only such Dropout layers are measured.

    Attributes:
        before: for each call of a BN layer with Dropout right before it: that Dropout layer, and its input's moments.
        earlier: for each BN layer, the last active Dropout layer called before it.
    """

    def __init__(self) -> None:
        self.before: dict[nn.Module, list[tuple[nn.Module, Entered]]] = {}
        self.earlier: dict[nn.Module, nn.Module] = {}
        self._hooks: dict[nn.Module, ExitStack] = {}
        self._passed: list[Passed] = []  # in this batch
        self._entered: Entered | None = None  # of the layer that is being called
        self._begun = False

    @contextmanager
    def follow(self, layer: nn.Module) -> Iterator[None]:
        """Watch a Dropout layer."""
        with ExitStack() as hooks:
            self._hooks[layer] = hooks
            hooks.enter_context(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(self._leave))
            yield

    def begin_batch(self) -> None:
        """Forget the tensors of the last batch and, after the first batch, the layers that are not needed."""
        if self._begun:
            needed = {layer for calls in self.before.values() for layer, _ in calls}
            for layer in self._hooks.keys() - needed:
                self._hooks.pop(layer).close()
        self._begun = True
        self._passed.clear()

    def enter_norm(self, norm: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find the Dropout layer whose output a BN layer takes; called by a forward pre-hook."""
        if not self._passed:
            return
        x = first_of(args, kwargs)
        self.earlier.setdefault(norm, self._passed[-1].layer)
        for passed in self._passed:
            if passed.output is x and torch.equal(passed.stamp, _stamp(x)):
                self.before.setdefault(norm, []).append((passed.layer, passed.entered))

    def _enter(self, layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = first_of(args, kwargs)
        active = layer.training and layer.p > 0 and x.dim() > 1 and x.numel()
        self._entered = Entered.of(x, layer) if active else None

    def _leave(self, layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        if self._entered:
            self._passed.append(Passed(layer, output, _stamp(output), self._entered))


def is_dropout(layer: nn.Module) -> bool:
    """Return True for a Dropout layer that zeroes values or channels."""
    return isinstance(layer, Dropout)


def first_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the first argument of a call, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))


def variance_behind(batches: Sequence[Entered], rate: float) -> Tensor:
    """Return the expected batch variance after Dropout of `rate`, `(C,)`, from the moments of its input."""
    means, squares, image_squares, images, values = zip(*batches, strict=True)
    mean, square, image_square = (torch.stack(sums).mean(0) for sums in (means, squares, image_squares))
    return dropped_variance(mean, square, image_square, 1 - rate, images[-1], values[-1])


def _stamp(x: Tensor) -> Tensor:
    """Return two sums by which a change in place is noticed."""
    x = x.float()
    return torch.stack([x.sum(), x.square().sum()])
