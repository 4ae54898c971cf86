"""The standard questions about a network, as data."""

from __future__ import annotations

from typing import Final, NamedTuple


class Question(NamedTuple):
    """A question about differences between placements.

    Attributes:
        asks: the question in words.
        pairs: pairs of placements; the largest difference, first minus second, gives the answer.
        subject: of the sentence that answers it.
        safe: True if the question is whether the difference is at worst negligibly below 0.
    """

    asks: str
    pairs: tuple[tuple[str, str], ...]
    subject: str
    safe: bool = False


QUESTIONS: Final = (
    Question("Does BatchNorm help?", (("bn", "none"),), "BatchNorm"),
    Question("Does Dropout help without BatchNorm?", (("dropout", "none"),), "Dropout without BatchNorm"),
    Question(
        "Does Dropout help on top of BatchNorm?",
        (("bn-dropout", "bn"), ("bn-head-dropout", "bn"), ("bn-dropout-last", "bn"), ("bn-pool-dropout", "bn")),
        "Dropout on top of BatchNorm",
    ),
    Question("Dropout after BatchNorm, or before?", (("bn-dropout", "dropout-bn"),), "Dropout after BatchNorm"),
    Question(
        "Is Dropout in the head alone safe?", (("bn-head-dropout", "bn"),), "Dropout in the head alone", safe=True
    ),
)
REDUNDANCY: Final = {"bn": 1.0, "dropout": 1.0, "none": -1.0, "bn-dropout": -1.0}  # of means: gains less the joint gain
