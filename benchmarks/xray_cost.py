"""What the X-ray of a run costs beyond the training in it: its seconds over those of the training passes.

    python -m benchmarks.xray_cost [--images 12000] [--epochs 6] [--rounds 5] [--models small medium] [--save]

Each round takes every case in turn, so that what disturbs one disturbs all. It trains one epoch on `--images` images,
and examines the result as that of a run of `--epochs` such epochs, which decide how many images the X-ray takes. The
training is that epoch's training pass, without evaluation, times `--epochs`. A first round warms up and does not count.
Without arguments it is the quick protocol of the reproduction; the full one is `--images 60000 --epochs 20`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.hardware import THREADS, Others, describe
from benchmarks.pages import Spread, add_save, conclude, head, table
from sweeper.core.config import RunConfig
from sweeper.data.fashion import resolve
from sweeper.training.device import use_threads
from sweeper.training.evaluate import subset
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train
from sweeper.training.xray.examine import examine

# Model, placement, augmentation: each has another share of BN layers, and what surrounds them.
CASES: Final = (
    ("small", "bn-dropout", "none"),
    ("medium", "none", "none"),
    ("medium", "bn", "none"),
    ("medium", "bn-dropout", "none"),
    ("medium", "bn-dropout", "crop-flip"),
    ("medium", "dropout-bn", "none"),
    ("medium", "ic", "none"),
    ("large", "bn-dropout", "crop-flip-erase"),
)


@dataclass
class Case:
    """One network, and what its rounds took."""

    config: RunConfig
    train_s: list[float] = field(default_factory=list)  # of all epochs
    xray_s: list[float] = field(default_factory=list)
    images: int = 0  # in a pass of the X-ray

    @property
    def name(self) -> str:
        """Model, placement, augmentation."""
        return f"{self.config.model} {self.config.placement.value} {self.config.augmentation}"

    @property
    def shares(self) -> list[float]:
        """Seconds of the X-ray over those of training, one a round."""
        return [xray / training for xray, training in zip(self.xray_s, self.train_s, strict=True)]

    def round(self, data: Data) -> None:
        """Train an epoch, examine the result."""
        result = finish(train(self.config.derive(epochs=1), data))
        found = examine(self.config, result, data)
        self.train_s.append(result.history[0].epoch_s * self.config.epochs)
        self.xray_s.append(found.seconds)
        self.images = found.images


def measure(args: argparse.Namespace) -> list[Case]:
    """Run the rounds of all cases in turn."""
    use_threads(args.threads)
    base = RunConfig.create(dataset=args.dataset, split="blog", epochs=args.epochs, batch_size=args.batch_size)
    (data,) = load(base, resolve(args.dataset)[1])
    data = Data(subset(data.train, args.images), data.val)
    names = ("model", "placement", "augmentation")
    chosen = [case for case in CASES if case[0] in args.models]
    cases = [Case(base.derive(**dict(zip(names, case, strict=True)))) for case in chosen]
    for number in range(args.rounds + 1):
        for case in cases:
            case.round(data)
            if number == 0:
                case.train_s.clear()
                case.xray_s.clear()
    return cases


def rows(cases: Sequence[Case]) -> list[list[str]]:
    """A row a network."""
    return [
        [case.name, str(case.images), Spread.of(case.train_s).show(1), Spread.of(case.xray_s).show(2),
         Spread.of([100 * share for share in case.shares]).show(2)]
        for case in cases
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="fashion-mnist")
    parser.add_argument("--models", nargs="+", choices=("small", "medium", "large"), default=["small", "medium"])
    add_save(parser)
    args = parser.parse_args()
    with Others() as others:
        cases = measure(args)
    hardware = describe(args.threads)
    options = f"--images {args.images} --epochs {args.epochs} --rounds {args.rounds} --batch-size {args.batch_size}"
    line = f"python -m benchmarks.xray_cost {options} --dataset {args.dataset} --models {' '.join(args.models)}"
    what = (
        f"Runs of {args.epochs} epochs of {args.images:,} images, threads: {args.threads}. Medians [min-max], "
        f"n = {args.rounds}. Other processes kept {others.cores:.2f} cores busy meanwhile. The target is 3 %."
    )
    header = ["network", "images in a pass", "training passes of the run, s", "X-ray, s", "share, %"]
    parts = [*head("What the X-ray costs", hardware, what, line), table(header, rows(cases))]
    raw = {case.name: {"train_s": case.train_s, "xray_s": case.xray_s, "images": case.images} for case in cases}
    conclude("xray_cost", hardware, parts, {"cases": raw, "others": others.cores}, args.save)


if __name__ == "__main__":
    main()
