"""The LearnOpenCV article: its eight experiments, and the variants of them that its claims compare."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sweeper.core.errors import ConfigError
from sweeper.core.experiments import EXPERIMENT_TITLES, FIRST_8
from sweeper.replication.article import DEFAULT, Arm, Article, Protocol, ProtocolName, Reproduction

if TYPE_CHECKING:
    from sweeper.replication.claims.claim import Claim

FEWER: Final = "at most 12,000 training images, stratified and always the same"
LARGE: Final = frozenset({"exp8-30", "large-none", "large-both"})  # arms that cost ten of a medium network

PROTOCOLS: Final[dict[ProtocolName, Protocol]] = {
    "full": Protocol("full", "all training images, the epochs of the experiments", seeds=5),
    "quick": Protocol(
        "quick",
        f"{FEWER}; 30 epochs",
        seeds=5,
        train_images=12_000,
        epochs=30,
        without=LARGE | {"exp8"},
        kept_in="quick-30",
    ),
    "quick-6": Protocol(  # `quick` as 0.1 had it: too short, every network is still learning
        "quick-6",
        f"{FEWER}; 6 epochs",
        seeds=5,
        train_images=12_000,
        epochs=6,
        without=LARGE,
        at_most={"exp8": 2},
        instead={"exp8": "exp8-30"},
        kept_in="quick",
    ),
}

CONTRADICTIONS: Final = (
    "'Training configurations the same', yet experiment 4 has a scheduler that 1 to 3 lack (claim 5 separates them).",
    "Experiment 4: 'accuracy does not improve', yet 'significant improvement in accuracy' (claim 5).",
    "BatchNorm has a 'small penalty for training time', yet 'significantly increases training time' (claims 19, 20).",
)

# In training order: the longest first, then arms that are compared next to each other.
ARMS: Final[dict[str, Arm]] = {
    "exp8": Arm(EXPERIMENT_TITLES[8], 8, kept_in="exp8-45"),
    "exp8-30": Arm(
        "experiment 8 as first declared: 30 epochs, Dropout everywhere, less decay", 8, FIRST_8, kept_in="exp8"
    ),
    "large-both": Arm("experiment 6 with the large network", 6, {"model": "large"}),
    "large-none": Arm(
        "experiment 6 with the large network, without BatchNorm and Dropout", 6, {"model": "large", "placement": "none"}
    ),
    "exp2": Arm(EXPERIMENT_TITLES[2], 2),
    "bn-constant": Arm("experiment 4 without its schedule", 4, {"schedule": "constant"}),
    "none-cosine": Arm("experiment 2 with the schedule of 4", 2, {"schedule": "cosine"}),
    "exp4": Arm(EXPERIMENT_TITLES[4], 4),
    "exp5": Arm(EXPERIMENT_TITLES[5], 5),
    "exp6": Arm(EXPERIMENT_TITLES[6], 6),
    "dropout-bn": Arm("experiment 6 with Dropout before BatchNorm", 6, {"placement": "dropout-bn"}),
    "ic": Arm("experiment 6 with both before each weight layer", 6, {"placement": "ic"}),
    "bn-head-dropout": Arm("experiment 6 with Dropout in the head only", 6, {"placement": "bn-head-dropout"}),
    "both-low": Arm("experiment 6 with lower Dropout rates", 6, {"conv_dropout": 0.05, "head_dropout": 0.15}),
    "both-high": Arm("experiment 6 with higher Dropout rates", 6, {"conv_dropout": 0.3, "head_dropout": 0.5}),
    "exp3": Arm(EXPERIMENT_TITLES[3], 3),
    "exp7": Arm(EXPERIMENT_TITLES[7], 7),
    "none-aug": Arm("experiment 7 without BatchNorm and Dropout", 7, {"placement": "none"}),
    "bn-aug": Arm("experiment 7 without Dropout", 7, {"placement": "bn"}),
    "dropout-aug": Arm("experiment 7 without BatchNorm", 7, {"placement": "dropout"}),
    "batch-32": Arm("experiment 6 with batches of 32", 6, {"batch_size": 32}),
    "batch-512": Arm("experiment 6 with batches of 512", 6, {"batch_size": 512}),
    "none-lr-3e-3": Arm("experiment 2 at learning rate 0.003", 2, {"lr": 3e-3}),
    "bn-lr-3e-3": Arm(
        "experiment 4 without its schedule, at learning rate 0.003", 4, {"schedule": "constant", "lr": 3e-3}
    ),
    "none-lr-1e-2": Arm("experiment 2 at learning rate 0.01", 2, {"lr": 1e-2}),
    "bn-lr-1e-2": Arm(
        "experiment 4 without its schedule, at learning rate 0.01", 4, {"schedule": "constant", "lr": 1e-2}
    ),
    "none-lr-3e-2": Arm("experiment 2 at learning rate 0.03", 2, {"lr": 3e-2}),
    "bn-lr-3e-2": Arm(
        "experiment 4 without its schedule, at learning rate 0.03", 4, {"schedule": "constant", "lr": 3e-2}
    ),
    "exp1": Arm(EXPERIMENT_TITLES[1], 1),
    "exp1-long": Arm("experiment 1, twice the epochs", 1, length=2),
    "small-none": Arm(
        "experiment 6 with the small network, without BatchNorm and Dropout", 6, {"model": "small", "placement": "none"}
    ),
    "small-bn": Arm("experiment 6 with the small network, without Dropout", 6, {"model": "small", "placement": "bn"}),
    "small-dropout": Arm(
        "experiment 6 with the small network, without BatchNorm", 6, {"model": "small", "placement": "dropout"}
    ),
    "small-both": Arm("experiment 6 with the small network", 6, {"model": "small"}),
    "small-none-aug": Arm(
        "experiment 7 with the small network, without BatchNorm and Dropout", 7, {"model": "small", "placement": "none"}
    ),
    "small-bn-aug": Arm(
        "experiment 7 with the small network, without Dropout", 7, {"model": "small", "placement": "bn"}
    ),
    "small-dropout-aug": Arm(
        "experiment 7 with the small network, without BatchNorm", 7, {"model": "small", "placement": "dropout"}
    ),
    "small-both-aug": Arm("experiment 7 with the small network", 7, {"model": "small"}),
}


def _claims(of: Reproduction) -> tuple[Claim, ...]:
    """Return its 28 claims; imported here, as their statistical tests load scipy, which training does not need."""
    from sweeper.replication.articles.learnopencv_claims import claims

    return claims(of)


ARTICLE: Final = Article(
    name=DEFAULT,
    short="The article",
    source="LearnOpenCV, Batch Normalization and Dropout: A Combined Regularization Approach",
    arms=ARMS,
    protocols=PROTOCOLS,
    ask=_claims,
    declared="Under our declared instantiation of the article (docs/results/reproduction.md).",
    choices=(
        "The article gives no architectures, rates, epochs, optimizer, schedule, batch size or augmentations. All of "
        "these are our declared instantiation of it, and the results hold for that.",
    ),
    contradictions=CONTRADICTIONS,
)


def parse_experiments(text: str) -> tuple[int, ...]:
    """Numbers of experiments such as `1,6-8`, each once, in ascending order.

    Raises:
        ConfigError: a part is not a number, nor a range of numbers, of the eight.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-8])\s*(?:-\s*([1-8])\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            listing = "; ".join(f"{n} {title}" for n, title in EXPERIMENT_TITLES.items())
            raise ConfigError(
                f"experiments {text[:60]!r}: {part[:20]!r} is neither an experiment nor a range such as 6-8. "
                f"The eight are: {listing}."
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))
