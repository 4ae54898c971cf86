"""Cut the sample that the package carries out of the full FashionMNIST, the same way every time.

    python -m docs.cut_sample FOLDER_OF_FASHION_MNIST [OUTPUT_FOLDER]

700 training and 100 test images of each class, in a seeded order, as gzipped idx files.
Prints the SHA-256 of each decompressed file, which `sweeper.data.fashion.SAMPLE` holds.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import torch

from sweeper.data.fashion import CLASSES, FULL, SAMPLE, SAMPLE_DIR, read_idx

SEED = 1


def main(source: Path, output: Path) -> None:
    """Write the four files of the sample into `output`."""
    generator = torch.Generator().manual_seed(SEED)
    for files, cuts in ((FULL.train, SAMPLE.train), (FULL.test, SAMPLE.test)):
        labels = torch.tensor(read_idx(source, files[1]))
        chosen = torch.randperm(len(labels), generator=generator)
        per_class = cuts[1].shape[0] // len(CLASSES)
        kept = torch.cat([chosen[labels[chosen] == c][:per_class] for c in range(len(CLASSES))]).sort().values
        for file, cut in zip(files, cuts, strict=True):
            values = torch.tensor(read_idx(source, file))[kept]
            content = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape) + values.numpy().tobytes()
            (output / f"{cut.name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
            print(cut.name, hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else SAMPLE_DIR)
