"""Measure the seconds of a whole sweep on a GPU, from the command to the last trial.

    python -m benchmarks.gpu_sweep [--trials 50] [--epochs 15] [--exp 6] [--rounds 3] [--save]

`sweeper optimize` on all FashionMNIST images, each round in a new home, with the journal on and nothing uploaded. The
first round also compiles the kernels, where this machine has not done so before. Without a GPU it says so and ends with
status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from time import perf_counter
from typing import Any

from benchmarks.hardware import Others, describe, no_gpu, usable_cores
from benchmarks.pages import ROOT, Spread, add_save, command, conclude, head, table

TOLD = re.compile(r"^trial \d+: (complete|pruned|failed|lost).* (\d+)/\d+ trials finished,.* best ([0-9.]+)")


def sweep(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run one sweep and read its lines.

    Raises:
        RuntimeError: not all trials were reported.
    """
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"SWEEPER_HOME": home, "PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        optimize = [sys.executable, "-m", "sweeper", "optimize", "--trials", str(args.trials), "--epochs",
                   str(args.epochs), "--exp", str(args.exp), "--dataset", "fashion-mnist", "--tracking-uri", "offline",
                   "--device", "cuda", "--seed", str(seed)]  # fmt: skip
        found: dict[str, Any] = {"seed": seed, "first_s": None, "told": [], "pruned": 0, "best": 0.0}
        start = perf_counter()
        with subprocess.Popen(
            optimize, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if told := TOLD.match(line):
                    found["told"].append(perf_counter() - start)
                    found["pruned"] += told[1] == "pruned"
                    found["best"] = float(told[3])
                    print(f"[{found['told'][-1]:6.1f} s] {line}", end="", flush=True)
        if len(found["told"]) < args.trials:
            raise RuntimeError("".join(lines[-20:]))
        if process.returncode:
            print("".join(lines[-5:]), flush=True)
        found["status"] = process.returncode
        return found | {"first_s": found["told"][0], "last_s": found["told"][-1], "end_s": perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--exp", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    add_save(parser)
    args = parser.parse_args()
    if reason := no_gpu():
        sys.exit(reason)
    hardware = describe(usable_cores() or 1, "cuda")
    with Others() as others:
        sweeps = [sweep(args, seed) for seed in range(args.rounds)]
    names = {"last_s": "to the last trial told, s", "first_s": "to the first one, s", "end_s": "to the end, s",
             "status": "its exit code", "pruned": "trials pruned", "best": "best validation accuracy"}  # fmt: skip
    rows = [[name, Spread.of([one[key] for one in sweeps]).show(4 if key == "best" else 1),
             ", ".join(f"{one[key]:.4g}" for one in sweeps)] for key, name in names.items()]  # fmt: skip
    what = (f"{args.trials} trials, {args.epochs} epochs, experiment {args.exp}; medians [min-max], n = {args.rounds} "
            f"sweeps. Other processes kept {others.cores:.2f} cores busy meanwhile.")  # fmt: skip
    parts = [
        *head("A whole sweep on a GPU", hardware, what, command("gpu_sweep", args)),
        table(["", "", "by round"], rows),
    ]
    conclude("gpu_sweep", hardware, parts, {"sweeps": sweeps, "others": others.cores}, args.save)


if __name__ == "__main__":
    main()
