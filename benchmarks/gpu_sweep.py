"""Trials an hour on a GPU: stacked trainings against their number K, against one after the other, and processes.

    python -m benchmarks.gpu_sweep [--model medium] [--members 1 4 16 64 128] [--epochs 3] [--rounds 3] [--save]

As `benchmarks.fused`, on the GPU, where the processes share it, and on all 60,000 images unless told otherwise. Without
a GPU it says so and ends with status 1.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.fused import add_options, report
from benchmarks.hardware import no_gpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, (1, 4, 16, 64, 128), 3)
    parser.set_defaults(model="medium", epochs=3, dataset="fashion-mnist")
    args = parser.parse_args()
    if reason := no_gpu():
        sys.exit(reason)
    torch.cuda.reset_peak_memory_stats()
    report(
        "gpu_sweep",
        "Stacked trainings on a GPU",
        args,
        "cuda",
        {"gpu_memory_gib": torch.cuda.mem_get_info()[1] / 2**30},
    )


if __name__ == "__main__":
    main()
