"""The placement grammar as a builder: the layers of a network in the order of its placement.

A network that is built from these layers can have any placement. Each method returns one or two weight layers with the
layers around them, to be used whole or one by one in `nn.Sequential`. Call the methods in the order in which the
network applies the layers: the layers before a weight layer depend on the earlier calls. docs/reference/placements.md
draws them.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from sweeper.core.config import Placement, RunConfig
from sweeper.training.norm import NarrowBatchNorm2d, batch_norm_2d


class Layers:
    """The builder of one network's layers.

    Attributes:
        dropout: the Dropout layers built so far, by the name of their rate.
        blocks: what each method returned last, by its name, in the order of their first calls.
    """

    def __init__(self, config: RunConfig) -> None:
        self._placement = config.network_placement
        self._rates = {"conv_dropout": config.conv_dropout, "head_dropout": config.head_dropout}
        self.dropout: dict[str, list[nn.Module]] = {name: [] for name in self._rates}
        self.blocks: dict[str, nn.Sequential] = {}
        self._last = ""  # the method that was called last

    def conv(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, pool: bool = False) -> nn.Sequential:
        """Return a convolution with its ReLU: `(B, c_in, H, W)` to `(B, c_out, H / stride, W / stride)`.

        With `pool`, a 2x2 max-pool halves the sides. It comes before ReLU and Dropout2d: the values are the same, and
        the work is less (docs/results/reproduction.md). Dropout2d zeroes whole channels.
        """
        return self._given("conv", self._conv(c_in, c_out, kernel, stride, pool))

    def stem(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
        """Return a bare convolution, for use before the first residual block, which begins with BatchNorm and ReLU."""
        return self._given("stem", [self._conv2d(c_in, c_out, kernel, stride)])

    def residual(self, c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
        """Return a residual block: `(B, c_in, H, W)` to `(B, c_out, H / stride, W / stride)`.

        BatchNorm and ReLU come before each of its two convolutions (He et al. 2016, arXiv 1603.05027). The shortcut
        is the identity, or a 1x1 convolution where the shape changes. Dropout zeroes single values.
        """
        branch = nn.Sequential(
            *self._activation(c_in), self._conv2d(c_in, c_out, 3, stride),
            *self._activation(c_out, last=True), self._conv2d(c_out, c_out, 3, 1),
        )  # fmt: skip
        same = stride == 1 and c_in == c_out
        block = Residual(branch, nn.Identity() if same else self._conv2d(c_in, c_out, 1, stride))
        after = [self._drop("conv_dropout")] if self._placement is Placement.BN_DROPOUT_ADD else []
        return self._given("residual", [block, *after])

    def linear(self, n_in: int, n_out: int) -> nn.Sequential:
        """Return a hidden layer of the head: `(B, n_in)` to `(B, n_out)`."""
        return self._given("linear", self._linear(n_in, n_out))

    def head(self, n_in: int, classes: int, *, pool: bool = False) -> nn.Sequential:
        """Return the classifier: `(B, n_in)` to logits `(B, classes)`.

        With `pool` it takes `(B, n_in, H, W)` and averages over all pixels. After residual blocks it begins with the
        BatchNorm and ReLU that the last block does not end with.
        """
        return self._given("head", self._head(n_in, classes, pool))

    # --- the layers, one by one -------------------------------------------------------------------

    def _given(self, method: str, layers: Iterator[nn.Module] | list[nn.Module]) -> nn.Sequential:
        self.blocks[method] = nn.Sequential(*layers)
        self._last = method
        return self.blocks[method]

    def _drop(self, rate: str, kind: type[nn.Dropout] | type[nn.Dropout2d] = nn.Dropout) -> nn.Module:
        self.dropout[rate].append(kind(self._rates[rate]))
        return self.dropout[rate][-1]

    @property
    def _norm_follows(self) -> bool:
        """True if BatchNorm directly follows a convolution, and so cancels its bias."""
        return self._placement.has_batch_norm and self._placement not in (Placement.DROPOUT_BN, Placement.IC)

    def _conv2d(self, c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
        return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=not self._norm_follows)

    def _conv(self, c_in: int, c_out: int, kernel: int, stride: int, pool: bool) -> Iterator[nn.Module]:
        """Yield a convolution and the layers that the placement puts around it.

        With `ic`, BatchNorm and Dropout precede each convolution but the first: its input is the image, standardised
        already, and dropping its one channel would drop the whole image.
        """
        placement = self._placement
        if placement is Placement.IC and self._last:
            yield from (batch_norm_2d(c_in), self._drop("conv_dropout", nn.Dropout2d))
        yield self._conv2d(c_in, c_out, kernel, stride)
        if placement is Placement.DROPOUT_BN:
            yield self._drop("conv_dropout", nn.Dropout2d)
        norm = batch_norm_2d(c_out) if placement.has_batch_norm and placement is not Placement.IC else None
        if norm is not None:
            yield norm
        if pool:
            yield nn.MaxPool2d(2)
        yield nn.ReLU(inplace=pool or norm is None or _may_be_changed(norm))
        if placement in (Placement.DROPOUT, Placement.BN_DROPOUT):
            yield self._drop("conv_dropout", nn.Dropout2d)

    def _activation(self, channels: int, *, last: bool = False) -> Iterator[nn.Module]:
        """Yield the layers before a convolution of a branch. `bn-dropout-last` has Dropout before the `last` alone."""
        placement = self._placement
        if placement is Placement.DROPOUT_BN:
            yield self._drop("conv_dropout")
        if placement is Placement.IC:
            yield from (nn.ReLU(), batch_norm_2d(channels))
        else:
            yield from self._trunk_end(channels)
        everywhere = placement in (Placement.DROPOUT, Placement.BN_DROPOUT, Placement.IC)
        if everywhere or (last and placement is Placement.BN_DROPOUT_LAST):
            yield self._drop("conv_dropout")

    def _trunk_end(self, channels: int) -> Iterator[nn.Module]:
        """Yield BatchNorm and ReLU. A ReLU that comes first is not in place, as the shortcut needs its input."""
        if not self._placement.has_batch_norm or self._placement is Placement.IC:
            yield nn.ReLU()
            return
        norm = batch_norm_2d(channels)
        yield from (norm, nn.ReLU(inplace=_may_be_changed(norm)))

    def _linear(self, n_in: int, n_out: int) -> Iterator[nn.Module]:
        yield from self._before_features(n_in)
        yield from (nn.Linear(n_in, n_out), nn.ReLU(inplace=True))
        if self._drops_features:
            yield self._drop("head_dropout")

    def _head(self, n_in: int, classes: int, pool: bool) -> Iterator[nn.Module]:
        if pool:
            if self._last in ("stem", "residual"):
                yield from self._trunk_end(n_in)
            if self._placement.drops_before_pooling:
                yield self._drop("head_dropout")
            yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        yield from self._before_features(n_in)
        if self._drops_features and self._last != "linear":
            yield self._drop("head_dropout")
        yield nn.Linear(n_in, classes)

    def _before_features(self, features: int) -> Iterator[nn.Module]:
        if self._placement is Placement.IC and self._last:
            yield from (nn.BatchNorm1d(features), self._drop("head_dropout"))

    @property
    def _drops_features(self) -> bool:
        """True if Dropout comes after a hidden layer of the head, or without one, before the classifier."""
        placement = self._placement
        return placement.has_head_dropout and not placement.drops_before_pooling and placement is not Placement.IC


def _may_be_changed(norm: nn.Module) -> bool:
    """Return True if the next layer may write into what BatchNorm returns. Torch forbids it for a view, as ours is."""
    return not isinstance(norm, NarrowBatchNorm2d)


class Residual(nn.Module):
    """The sum of a shortcut and a branch of the same input, `(B, C, H, W)`."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + branch(x)."""
        total: Tensor = self.shortcut(x) + self.branch(x)
        return total
