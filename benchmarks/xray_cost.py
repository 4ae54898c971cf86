"""What the X-ray of a run costs beyond the training in it: its seconds over those of the training passes.

    python -m benchmarks.xray_cost [--images 12000] [--epochs 6] [--rounds 5] [--models small medium]

Each round takes every case in turn, so that what disturbs one disturbs all. It trains one epoch on `--images` images,
and examines the result as that of a run of `--epochs` such epochs, which decide how many images the X-ray takes. The
training is that epoch's training pass, without evaluation, times `--epochs`. A first round warms up and does not count.
Without arguments it is the quick protocol of the reproduction; the full one is `--images 60000 --epochs 20`. The
page with the results goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.hardware import THREADS, Others, describe
from sweeper.config import RunConfig
from sweeper.data import Data, load, resolve
from sweeper.diagnostics import examine
from sweeper.train import finish, subset, train, use_threads

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


def page(args: argparse.Namespace, cases: Sequence[Case], others: float) -> str:
    """The results as Markdown, with everything measured as JSON below."""
    hardware = describe(args.threads)
    options = f"--images {args.images} --epochs {args.epochs} --rounds {args.rounds} --batch-size {args.batch_size}"
    rows = [
        f"| {case.name} | {case.images} | {_spread(case.train_s, '.1f')} | {_spread(case.xray_s, '.2f')} "
        f"| {_spread([100 * share for share in case.shares], '.2f')} |"
        for case in cases
    ]
    raw = {case.name: {"train_s": case.train_s, "xray_s": case.xray_s, "images": case.images} for case in cases}
    return "\n".join(
        [
            "# What the X-ray costs",
            "",
            f"{hardware['cpu']}, threads: {args.threads}, {hardware['date']}. Medians [min-max], n={args.rounds}.",
            f"`python -m benchmarks.xray_cost {options} --dataset {args.dataset} --models {' '.join(args.models)}`",
            f"Other processes kept {others:.2f} cores busy meanwhile.",
            "",
            "| network | images in a pass | training passes of the run, s | X-ray, s | share, % |",
            "|---|---|---|---|---|",
            *rows,
            "",
            json.dumps({"question": "xray_cost", "cases": raw, "others": others, "hardware": hardware}),
        ]
    )


def _spread(values: Sequence[float], style: str) -> str:
    return f"{statistics.median(values):{style}} [{min(values):{style}}-{max(values):{style}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--dataset", choices=("sample", "fashion-mnist"), default="fashion-mnist")
    parser.add_argument("--models", nargs="+", choices=("small", "medium", "large"), default=["small", "medium"])
    args = parser.parse_args()
    with Others() as others:
        cases = measure(args)
    print(page(args, cases, others.cores))


if __name__ == "__main__":
    main()
