"""The placements of Batch Normalization and Dropout in a network."""

from __future__ import annotations

import enum
from typing import Final

PLACES: Final = {"conv_dropout": "convolutions", "head_dropout": "head"}  # of the Dropout layers, by their rate


class Placement(enum.StrEnum):
    """The order of Batch Normalization and Dropout around each weight layer, from left to right.

    docs/reference/placements.md draws each of them, in a plain network and in a residual block.
    """

    NONE = "none"  # conv, ReLU                       | Linear, ReLU, Linear
    BN = "bn"  # conv, BN, ReLU                       | as none
    DROPOUT = "dropout"  # conv, ReLU, Dropout2d      | Linear, ReLU, Dropout, Linear
    BN_DROPOUT = "bn-dropout"  # conv, BN, ReLU, Dropout2d   | as dropout
    DROPOUT_BN = "dropout-bn"  # conv, Dropout2d, BN, ReLU   | as dropout
    BN_HEAD_DROPOUT = "bn-head-dropout"  # as bn             | as dropout
    IC = "ic"  # BN, Dropout before each weight layer but the first (Chen et al. 2019)
    # in residual blocks, and heads with global average pooling:
    BN_DROPOUT_LAST = "bn-dropout-last"  # Dropout before a branch's last conv (Kim et al. 2023) | Dropout, pooling
    BN_DROPOUT_ADD = "bn-dropout-add"  # Dropout after the addition                              | pooling, Dropout
    BN_POOL_DROPOUT = "bn-pool-dropout"  # as bn                                                 | Dropout, pooling
    OWN = "own"  # that of a factory without `layers`, with its own rates

    @property
    def has_conv_dropout(self) -> bool:
        """True if the convolutional part has Dropout layers of the rate `conv_dropout`."""
        return self in (
            Placement.DROPOUT, Placement.BN_DROPOUT, Placement.DROPOUT_BN, Placement.IC, Placement.BN_DROPOUT_LAST,
            Placement.BN_DROPOUT_ADD,
        )  # fmt: skip

    @property
    def has_head_dropout(self) -> bool:
        """True if the head has Dropout layers of the rate `head_dropout`."""
        return self not in (Placement.NONE, Placement.BN, Placement.OWN)

    @property
    def has_batch_norm(self) -> bool:
        """True if the network has BatchNorm layers. Of the placement `own` this is not known."""
        return self not in (Placement.NONE, Placement.DROPOUT, Placement.OWN)

    @property
    def drops_before_pooling(self) -> bool:
        """True if the Dropout of the head stands before global average pooling."""
        return self in (Placement.BN_DROPOUT_LAST, Placement.BN_POOL_DROPOUT)

    @property
    def is_residual(self) -> bool:
        """True if it needs residual blocks, or a head with global average pooling."""
        return self in (Placement.BN_DROPOUT_LAST, Placement.BN_DROPOUT_ADD, Placement.BN_POOL_DROPOUT)

    def uses(self, field: str) -> bool:
        """Return False if the network has no Dropout that `field` of a configuration acts on."""
        match field:
            case "conv_dropout":
                return self.has_conv_dropout
            case "head_dropout":
                return self.has_head_dropout
            case "dropout_schedule":
                return self.has_head_dropout or self is Placement.OWN
        return True


LAYERED: Final = tuple(placement for placement in Placement if placement is not Placement.OWN)
PLAIN: Final = tuple(placement for placement in LAYERED if not placement.is_residual)
