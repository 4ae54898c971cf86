"""How often do the intervals of an advice tell a difference that is not there, and one that is?

    python -m benchmarks.advise_intervals [--repetitions 1000] [--save]

Each repetition draws 20 accuracies of each of 7 placements and looks at 3, 5, 10 and 20 of them, as a comparison does.
False: all placements are equal, and some look calls one better than another. Found: the last placement is two standard
deviations better than the others, and is called better than the one before it within ten seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.hardware import describe
from benchmarks.pages import add_save, command, conclude, head, table
from sweeper.advice.comparison import Comparison

Values = npt.NDArray[np.float64]
PLACEMENTS: Final = 7
LOOKS: Final = (3, 5, 10, 20)
BETTER: Final = 2.0


def normal(*deviations: float) -> Callable[[np.random.Generator], Values]:
    """Normal values; the first placements have these standard deviations, the others 1."""
    spread = np.array([*deviations, *[1.0] * (PLACEMENTS - len(deviations))])
    return lambda draw: spread[:, None] * draw.normal(size=(PLACEMENTS, max(LOOKS)))


WORLDS: Final[dict[str, Callable[[np.random.Generator], Values]]] = {
    "all vary alike": normal(),
    "one varies ten times as much": normal(10),
    "two vary three times as much": normal(3, 3),
    "two vary six times as much": normal(6, 6),
    "three vary a tenth as much": normal(0.1, 0.1, 0.1),
    "heavy tails (Student's t, 3 degrees of freedom)":
        lambda draw: draw.standard_t(3, size=(PLACEMENTS, max(LOOKS))),
    "one seed in ten fails by 5": lambda draw: draw.normal(size=(PLACEMENTS, max(LOOKS)))
        - 5.0 * (draw.random((PLACEMENTS, max(LOOKS))) < 0.1),
}  # fmt: skip


def compare(values: Values, looks: tuple[int, ...]) -> Comparison:
    """Return the comparison of placements with these accuracies."""
    found = Comparison(PLACEMENTS)
    for seeds in looks:
        found.look({str(number): list(each[:seeds]) for number, each in enumerate(values)}, seeds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    add_save(parser)
    args = parser.parse_args()
    hardware, rows, record = describe(), [], {}
    last, before = str(PLACEMENTS - 1), str(PLACEMENTS - 2)
    for name, world in WORLDS.items():
        draw, false, found = np.random.default_rng(0), 0, 0
        for _ in range(args.repetitions):
            values = world(draw)
            false += any(each.told for each in compare(values, LOOKS).found.values())
            values[-1] += BETTER
            known = compare(values, LOOKS[:3]).between(last, before)
            found += known is not None and known.low > 0
        record[name] = {"false": false, "found": found}
        rows.append([name, *(f"{100 * count / args.repetitions:.1f} %" for count in (false, found))])
        print(rows[-1], flush=True)
    what = f"{args.repetitions} comparisons of {PLACEMENTS} placements in each world; 5 % may be false."
    parts = head("The intervals of an advice", hardware, what, command("advise_intervals", args))
    parts.append(table(["placements", "false", "found"], rows))
    conclude("advise_intervals", hardware, parts, {"worlds": record}, args.save)


if __name__ == "__main__":
    main()
