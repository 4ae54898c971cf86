"""Count the near-duplicates of FashionMNIST, and draw pairs around the threshold (half a minute on two cores).

    python -m docs.near_duplicates [--data-dir FOLDER]

Prints how many test images are closer to a training image than some thresholds, how many of those pairs have two
labels, and the classes at the threshold in use. Writes docs/images/near-duplicates.png, in which each row is a band of
distances: six pairs without trousers, then two of trousers.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.duplicates import THRESHOLD, Nearest, nearest
from sweeper.data.fashion import CLASSES, find
from sweeper.training.images import Data, load_test

PICTURE = Path(__file__).parent / "images" / "near-duplicates.png"
THRESHOLDS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.10)
BANDS = (0.0, 0.03, 0.045, 0.055, 0.06, 0.065, 0.075, 0.10)
TROUSER = CLASSES.index("Trouser")
MOST = {False: 6, True: 2}  # pairs of a row, without trousers and of trousers


def count(found: Nearest, data: Data) -> None:
    """Print the numbers of docs/results/reproduction.md."""
    differs = data.train.labels[found.index] != data.val.labels
    for threshold in THRESHOLDS:
        near = found.rms < threshold
        print(f"rms < {threshold:.2f}: {int(near.sum())}, of which two labels: {int((near & differs).sum())}")
    counts = np.bincount(data.val.labels[found.rms < THRESHOLD], minlength=len(CLASSES))
    print(f"at {THRESHOLD}: " + ", ".join(f"{CLASSES[c]} {counts[c]}" for c in np.argsort(-counts, kind="stable")))


def draw(found: Nearest, data: Data) -> Figure:
    """Pairs of a test image and its nearest training image, a row a band of distances."""
    random, rms = np.random.default_rng(0), found.rms.numpy()
    is_trouser = (data.val.labels == TROUSER).numpy()
    figure = Figure(figsize=(14, 1.35 * (len(BANDS) - 1)), layout="constrained")
    rows = figure.subplots(len(BANDS) - 1, sum(MOST.values()))
    for (low, high), axes in zip(pairwise(BANDS), rows, strict=True):
        chosen: list[int] = []
        for trouser, most in MOST.items():
            band = np.flatnonzero((rms >= low) & (rms < high) & (is_trouser == trouser))
            chosen += sorted(random.choice(band, min(most, len(band)), replace=False), key=lambda i: rms[i])
        for place in axes:
            place.axis("off")
        for place, i in zip(axes, chosen, strict=False):
            test, train = data.val, data.train[found.index]
            line = np.full((test.pixels.shape[1], 1), 255, np.uint8)
            place.imshow(
                np.hstack([test.pixels[i, ..., 0], line, train.pixels[i, ..., 0]]), cmap="gray_r", vmin=0, vmax=255
            )
            labels = dict.fromkeys(CLASSES[int(images.labels[i])] for images in (test, train))
            place.set_title(f"{rms[i]:.3f} {', '.join(labels)}", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    data = load_test(find("fashion-mnist", parser.parse_args().data_dir))
    found = nearest(data.val.pixels, data.train.pixels)
    count(found, data)
    draw(found, data).savefig(PICTURE, dpi=80, metadata={"Software": None})
    print(PICTURE)


if __name__ == "__main__":
    main()
