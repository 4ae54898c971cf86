"""The article's 28 claims as data, each with the question that our runs have to answer.

All claims are about our declared instantiation of the article (docs/results/reproduction.md). A question names arms
(learnopencv.py) and measures of a run (measures.py). Where the article claims an improvement but not in which measure,
both accuracy and NLL have to improve.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sweeper.replication.article import ProtocolName, Reproduction
from sweeper.replication.articles.learnopencv import CONTRADICTIONS
from sweeper.replication.claims.claim import Claim
from sweeper.replication.claims.measures import (
    ACCURACY,
    ACCURACY_COMPLETE,
    ECE,
    ERROR_CONFIDENCE,
    GAP,
    GAP_ACCURACY,
    GAP_SLOPE,
    NLL,
    SPIKES,
    TRAIN_GAIN,
    TRAIN_SLOPE,
    VAL_SLOPE,
    VARIANCE_SHIFT,
    epochs_to,
    onset,
)
from sweeper.replication.claims.questions import (
    above,
    all_of,
    any_of,
    below,
    between,
    contrast,
    given,
    higher_stable_rate,
    matters,
    more_often,
    overfits,
    ranks_first,
    reaches,
    share,
    time_ratio,
    varies_more,
    within,
)
from sweeper.replication.runs import ArmRun

MARGIN: Final = 0.003  # of accuracy: smaller differences do not matter
MARGIN_NLL: Final = 0.01  # nats
ARTICLE_ACCURACY: Final = 0.948
FAST: Final = {"full": 0.90, "quick": 0.853, "quick-6": 0.853}  # of accuracy; 0.853 is 90 % of the article's 0.948
RATES: Final = ("1e-3", "3e-3", "1e-2", "3e-2")

# Placement of BatchNorm and Dropout by size and augmentation: none, BatchNorm, Dropout, both.
CELLS: Final = {
    "medium": ("none-cosine", "exp4", "exp5", "exp6"),
    "medium, augmented": ("none-aug", "bn-aug", "dropout-aug", "exp7"),
    "small": ("small-none", "small-bn", "small-dropout", "small-both"),
    "small, augmented": ("small-none-aug", "small-bn-aug", "small-dropout-aug", "small-both-aug"),
}


def claims(of: Reproduction) -> tuple[Claim, ...]:
    """The 28 claims, as a protocol can judge them."""
    return (
        *_plain(),
        *_batch_norm_and_dropout(of),
        *_both(of),
        *_augmented_and_large(of),
        *_speed(of.name),
        *_dropout_and_placement(),
        *_side_effects(),
        *_dependence(of.name),
    )


def _onset_is_early(run: ArmRun) -> bool | None:
    return onset(run) < 0.5 if run.epochs and run.state == "complete" else None


def _plain() -> tuple[Claim, ...]:
    """Experiments 1 to 3."""
    return (
        Claim(
            1, "Experiment 1 is at its capacity: longer training only widens the gap",
            all_of(above(GAP_SLOPE, "exp1-long"), below(TRAIN_GAIN, "exp1-long", bound=0.002)),
            ("The gap's slope is that of the second half of a training twice as long; the gain in train accuracy is "
             "that over this half. The schedule is constant, so its first half is experiment 1.",),
        ),
        Claim(
            2, "Experiment 2 overfits quickly",
            share("lowest val NLL before half of the epochs", "exp2", _onset_is_early, 0.9),
            ("Many seeds are needed to show that something holds in more than 90 % of runs: with 5 of 5, the exact "
             "interval reaches down to 48 %.",),
        ),
        Claim(
            3, "Experiment 2 beats 1 in accuracy and loss",
            all_of(above(ACCURACY, "exp2", "exp1"), below(NLL, "exp2", "exp1")),
        ),
        Claim(
            4, "Experiment 3 (augmentation) generalises better than 2",
            all_of(below(GAP, "exp3", "exp2"), below(NLL, "exp3", "exp2")),
        ),
    )  # fmt: skip


def _batch_norm_and_dropout(of: Reproduction) -> tuple[Claim, ...]:
    """Experiments 4 and 5."""
    batch_norm = {"exp4": 0.5, "bn-constant": 0.5, "none-cosine": -0.5, "exp2": -0.5}
    main = "main effect of BatchNorm"
    return (
        Claim(
            5, "Experiment 4: BatchNorm improves accuracy and loss over 2",
            all_of(contrast(ACCURACY, batch_norm, main, +1), contrast(NLL, batch_norm, main, -1)),
            ("From 2 to 4, BatchNorm and the scheduler come together. The main effect of BatchNorm in the 2x2 of "
             "BatchNorm and scheduler separates them.",
             "The article says of 4 both 'accuracy does not improve' and 'significant improvement in accuracy'. "
             "The latter is tested."),
        ),
        Claim(6, "Experiment 4 still overfits", overfits("exp4", of.config("exp4", seed=0).epochs), (OVERFIT_NOTE,)),
        Claim(
            7, "A lower loss at equal accuracy (5 against 4) is a more robust model",
            given(
                within(ACCURACY, "exp5", "exp4", MARGIN),
                all_of(below(NLL, "exp5", "exp4"), below(ERROR_CONFIDENCE, "exp5", "exp4"), below(ECE, "exp5", "exp4")),
            ),
            ("Its premise, equal accuracy, is claim 8; there is no verdict where it is shown not to hold.",
             "Robustness is read as calibration: less confidence on errors, lower ECE, lower NLL. No corrupted images "
             "are tested."),
        ),
        Claim(
            8, "Experiment 5 (Dropout) has about the accuracy of 4 (BatchNorm)",
            within(ACCURACY, "exp5", "exp4", MARGIN),
            ("About is read as within 0.3 points.",),
        ),
        Claim(
            9, "Experiment 5 has a lower loss than 4, and overfits more slowly",
            all_of(below(NLL, "exp5", "exp4"), below(GAP_SLOPE, "exp5", "exp4")),
            ("Overfitting is read as the gap's slope over the second half of the epochs.",),
        ),
    )  # fmt: skip


def _both(of: Reproduction) -> tuple[Claim, ...]:
    """Experiment 6."""
    return (
        Claim(
            10, "Experiment 6 (both) is 0.001 more accurate than 4 and 5",
            all_of(above(ACCURACY, "exp6", "exp4"), above(ACCURACY, "exp6", "exp5")),
            ("To be above the better of the two is to be above both: an intersection-union test, so that taking the "
             "better of two costs nothing. The test is for a gain above 0; the interval shows if it can be 0.001.",
             "The accuracy of one run on 10,000 images has a standard deviation of about 0.16 points."),
        ),
        Claim(
            11, "Experiment 6 has a significantly lower loss than 4 and 5",
            all_of(below(NLL, "exp6", "exp4"), below(NLL, "exp6", "exp5")),
        ),
        Claim(12, "Experiment 6 overfits again", overfits("exp6", of.config("exp6", seed=0).epochs), (OVERFIT_NOTE,)),
    )  # fmt: skip


def _augmented_and_large(of: Reproduction) -> tuple[Claim, ...]:
    """Experiments 7 and 8."""
    declared = FIRST_NOTE if "exp8" in of.protocol.instead else CHANGED_NOTE
    return (
        Claim(
            13, "Experiment 7 is the best of 1 to 7, with the smallest gap",
            ranks_first({ACCURACY: +1, NLL: -1, GAP: -1}, "exp7", [f"exp{i}" for i in range(1, 7)], 0.95),
            ("Best is read as first in accuracy, NLL and gap (in NLL). A network too small to overfit has a small "
             "gap as well.",),
        ),
        Claim(
            14, "Experiment 7: both losses fall to the last epoch",
            all_of(below(TRAIN_SLOPE, "exp7"), below(VAL_SLOPE, "exp7")),
            ("The slope is that of the last fifth of the epochs, of two at least.",
             "With a cosine schedule, losses fall at the end whatever is trained."),
        ),
        Claim(
            15, "Experiment 7: train accuracy is above val by a tiny difference",
            between(above(GAP_ACCURACY, "exp7"), below(GAP_ACCURACY, "exp7", bound=0.01)),
            ("Tiny is read as less than 1 point.",),
        ),
        Claim(
            16, "Experiment 8 is the best",
            replace(
                all_of(*(above(ACCURACY, "exp8", f"exp{i}") for i in (7, *range(1, 7)))),
                words="accuracy, exp8 - each of exp1 to exp7, > 0 points",
            ),
            ("Best is read as more accurate than each of 1 to 7, by an intersection-union test as in claim 10.",
             "From 7 to 8, size, rates, augmentation, batch size, schedule, decay and epochs change together: "
             "8 is a recipe, not a comparison.", declared),
        ),
        Claim(
            17, "Experiment 8 reaches an accuracy of 0.948",
            reaches(ACCURACY, "exp8", ARTICLE_ACCURACY, MARGIN),
            ("Reaching is read as a mean not 0.3 points below, and 0.948 not above the prediction interval of one "
             "further run. An interval that contains 0.948 because it is wide supports nothing.", declared),
            needs_full="0.948 was reached on all 60,000 images; run sweeper reproduce --exp 8 --protocol full "
            "--dataset fashion-mnist",
        ),
    )  # fmt: skip


CHANGED_NOTE: Final = (
    "The declaration of experiment 8 was changed after the first one fell short of 0.948: 94.49 % in one seed. The new "
    "one was chosen on held-out images, one seed a candidate; the idea of Dropout in the head only came from runs that "
    "were judged on test images. The first one stays as the arm exp8-30."
)
FIRST_NOTE: Final = "Here experiment 8 is as it was first declared."
OVERFIT_NOTE: Final = (
    "The lowest of several epochs is below the last one by chance alone. So each epoch is compared with the last, "
    "within runs, and corrected for their number."
)


def _speed(protocol: ProtocolName) -> tuple[Claim, ...]:
    """Convergence and training time."""
    grid = ["exp2", *(f"none-lr-{rate}" for rate in RATES[1:])]
    grid_bn = ["bn-constant", *(f"bn-lr-{rate}" for rate in RATES[1:])]
    fast = epochs_to(FAST[protocol])
    return (
        Claim(
            18, "BatchNorm converges faster and allows higher learning rates",
            all_of(
                below(fast, "bn-constant", "exp2"),
                higher_stable_rate(grid_bn, grid, "BatchNorm - none"),
            ),
            (f"Faster is read as fewer epochs to an accuracy of {FAST[protocol]:g}"
             + (", 90 % of the article's 0.948" if protocol != "full" else "")
             + "; a run that never reaches it counts as one epoch more than it has.",
             f"The grid is {', '.join(RATES)}, constant schedule. A run is stable if it ends with at most half the "
             "NLL of a uniform guess."),
        ),
        Claim(
            19, "BatchNorm's penalty in training time is small",
            time_ratio("exp4", "none-cosine", -1, 1.15),
            (TIME_NOTE, "Small is read as below 15 %.", CONTRADICTIONS[2]),
        ),
        Claim(
            20, "Dropout and BatchNorm significantly increase training time",
            time_ratio("exp6", "none-cosine", +1, 1.15),
            (TIME_NOTE, "Significantly is read as above 15 %, for the two together.", CONTRADICTIONS[2]),
        ),
    )  # fmt: skip


def _dropout_and_placement() -> tuple[Claim, ...]:
    """Where Dropout helps, and where it stands."""
    pairs = [(cell[2], cell[0]) for cell in CELLS.values()] + [(cell[3], cell[1]) for cell in CELLS.values()]
    return (
        Claim(
            21, "Dropout helps, but not always",
            replace(
                all_of(any_of(*(above(ACCURACY, *pair) for pair in pairs)),
                       any_of(*(below(ACCURACY, *pair) for pair in pairs))),
                words="accuracy, with Dropout - without, > 0 points in one of eight cells; and < 0 points in another",
            ),
            ("Eight cells: small or medium, BatchNorm or not, augmentation or not. Supported if accuracy rises in one "
             "and falls in another: a qualitative interaction (Gail and Simon 1985, Biometrics 41).",),
        ),
        Claim(
            22, "BatchNorm before Dropout is better than after it",
            all_of(above(ACCURACY, "exp6", "dropout-bn"), below(NLL, "exp6", "dropout-bn")),
            ("Before is relative in a stack: each block's Dropout precedes the next block's BatchNorm.",),
        ),
        Claim(
            23, "Dropout only where there is no BatchNorm is safe",
            all_of(above(ACCURACY, "bn-head-dropout", "exp6", -MARGIN),
                   below(NLL, "bn-head-dropout", "exp6", MARGIN_NLL)),
            ("Safe is read as no worse than Dropout everywhere: by less than 0.3 points, and 0.01 nats.",),
        ),
    )  # fmt: skip


def _side_effects() -> tuple[Claim, ...]:
    """Instability and variance shift."""
    return (
        Claim(
            24, "The combination can be unstable",
            any_of(
                share("runs that diverge", "exp6", lambda run: run.state == "diverged", 0.05),
                all_of(
                    varies_more(ACCURACY_COMPLETE, "exp6", "exp4"), varies_more(ACCURACY_COMPLETE, "exp6", "exp5")
                ),
                all_of(more_often(SPIKES, "exp6", "exp4"), more_often(SPIKES, "exp6", "exp5")),
            ),
            ("Unstable is read as one of: more than 5 % of runs diverge; accuracy varies more over seeds than with "
             "either alone (F test, which assumes normal values); more loss spikes than with either alone.",
             "A run that diverged counts in the first alone: its accuracy of 0.1 among several of 0.9 would decide the "
             "second by itself."),
        ),
        Claim(
            25, "Dropout disturbs BatchNorm's statistics",
            all_of(above(VARIANCE_SHIFT, "exp6", "both-low"), above(VARIANCE_SHIFT, "both-high", "exp6")),
            ("The variance shift (Li et al. 2019, arXiv 1801.05134) has to rise at each step of three rates. The rates "
             "of convolutions and head rise together.",),
        ),
    )  # fmt: skip


def _dependence(protocol: ProtocolName) -> tuple[Claim, ...]:
    """Interaction, size of the network, and one factor at a time."""
    gain = {"exp6": 1.0, "exp4": -1.0, "exp5": -1.0, "none-cosine": 1.0}
    interaction = "Dropout's gain with BatchNorm - without"
    larger = ("large-both", "large-none") if protocol == "full" else ("exp6", "none-cosine")
    growth = {larger[0]: 1.0, larger[1]: -1.0, "small-both": -1.0, "small-none": 1.0}
    return (
        Claim(
            26, "Dropout on top of BatchNorm is redundant",
            all_of(contrast(ACCURACY, gain, interaction, -1), contrast(NLL, gain, interaction, +1)),
            ("Redundant is read as the interaction in the 2x2 of BatchNorm and Dropout: Dropout gains less where there "
             "is BatchNorm. The article also says that the two together have a much better loss (claim 11).",),
        ),
        Claim(
            27, "Larger models gain more from the combination",
            contrast(ACCURACY, growth, f"gain of {larger[0]} - gain of small-both", +1),
            (GAIN_NOTE,) if protocol == "full" else
            (GAIN_NOTE, "Of small and medium only: the large network is part of protocol full."),
        ),
        Claim(
            28, "Dropout rate, batch size and placement matter",
            all_of(
                matters(ACCURACY, "rate", ("both-low", "exp6", "both-high"), MARGIN),
                matters(ACCURACY, "batch size", ("batch-32", "exp6", "batch-512"), MARGIN),
                matters(ACCURACY, "placement", ("exp6", "dropout-bn", "ic", "bn-head-dropout"), MARGIN),
            ),
            ("One factor at a time around experiment 6. A factor does not matter if all its levels are shown to lie "
             "within 0.3 points of each other.",),
        ),
    )  # fmt: skip


GAIN_NOTE: Final = (
    "The gain is that of BatchNorm and Dropout together over the same network with neither; the share of each is not "
    "separated."
)
TIME_NOTE: Final = (
    "Runs are paired by seed; a pair that differs in threads or hardware is left out. sweeper reproduce trains the "
    "runs of one seed in one pass and rotates their order from seed to seed; verify --train trains in the order of its "
    "plan. The verdict holds for the hardware that is named."
)
