"""Record the accuracies of real trainings over the default search space, for `search_real` to replay.

    python -m benchmarks.search_table [--seeds 3] [--workers 2] [--raw build/search_table.jsonl]

The small network on 2,000 images of the embedded sample: a grid of placement, rates and batch size, each cell with the
same seeds. 20 epochs suffice for the network without BatchNorm and Dropout to overfit, at a batch size of 32. All cells
have one seed before any has the next. Trainings are kept in `--raw`, so that an interrupted recording goes on and more
seeds can be added. The end writes benchmarks/data/search_table.json.gz: the validation accuracy and loss after each
epoch of each training. The test images are never read.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any, Final

from benchmarks.fair_records import Record
from benchmarks.hardware import describe
from benchmarks.pages import command
from sweeper.core.config import PLAIN, Placement, RunConfig
from sweeper.core.files import write_whole
from sweeper.data.sources import find
from sweeper.study.space import Choice, Space, cells
from sweeper.training.device import use_threads
from sweeper.training.images import load
from sweeper.training.start import training

TABLE: Final = Path(__file__).parent / "data" / "search_table.json.gz"
BASE: Final = RunConfig(dataset="sample", model="small", train_images=2_000, epochs=20, lr=3e-3, schedule="cosine")
NODES: Final = Space({  # 123 cells; the ends are those of the default space
    "placement": Choice(tuple(placement.value for placement in PLAIN)), "conv_dropout": Choice((0.02, 0.15, 0.4)),
    "head_dropout": Choice((0.05, 0.3, 0.6)), "batch_size": Choice((32, 128, 512)),
})  # fmt: skip
LOSS_DIGITS: Final = 4


def train(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Train a cell with a seed, in one thread; return its validation accuracies and losses by epoch."""
    use_threads(1)
    config = BASE.derive(seed=entry["seed"], **entry["params"])
    start = process_time()
    epochs = list(training(config, load(config, find("sample"))))
    return {**entry, "val_accuracy": [round(each.val_accuracy, 6) for each in epochs],
            "val_loss": [round(each.val_loss, LOSS_DIGITS) for each in epochs],
            "cpu_s": round(process_time() - start, 2)}  # fmt: skip


def wanted(record: Record, seeds: int) -> list[dict[str, Any]]:
    """Return the trainings that the record lacks, in order."""
    found = cells(NODES, Placement.NONE)
    everything = [{"name": json.dumps(cell), "seed": seed, "params": cell} for seed in range(seeds) for cell in found]
    return [each for each in everything if record.of(each["name"], each["seed"]) is None]


def write_table(record: Record, args: argparse.Namespace, hardware: Mapping[str, Any]) -> None:
    """Write the table: a header with the hardware, then a training a line."""
    head = {"what": "real trainings, recorded for benchmarks/search_real.py", "command": command("search_table", args),
            "n": len(record.entries), "seeds": args.seeds, "base": BASE.model_dump(mode="json"),
            "cpu_seconds": round(sum(each["cpu_s"] for each in record.entries)), "hardware": hardware}  # fmt: skip
    entries = sorted(record.entries, key=lambda each: (each["seed"], each["name"]))
    kept = ({key: each[key] for key in ("params", "seed", "val_accuracy", "val_loss")} for each in entries)
    lines = [json.dumps(head), *map(json.dumps, kept)]
    write_whole(TABLE, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of each cell")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--raw", type=Path, default=Path("build/search_table.jsonl"), help="the trainings so far")
    args = parser.parse_args()
    settings = {"base": BASE.model_dump(mode="json"), "nodes": NODES.describe()}
    record = Record(args.raw, settings)
    missing = wanted(record, args.seeds)
    with get_context("spawn").Pool(args.workers) as pool:
        for done, entry in enumerate(pool.imap_unordered(train, missing), start=1):
            record.add(entry)
            print(f"{done}/{len(missing)} {entry['name']} seed {entry['seed']}: {entry['val_accuracy'][-1]:.3f}, "
                  f"{entry['cpu_s']:.1f} s", flush=True)  # fmt: skip
    write_table(record, args, describe(threads=1))
    print(TABLE)


if __name__ == "__main__":
    main()
