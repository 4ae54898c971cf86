"""Measure the time of the same sweep with sweeper and with the tools that are used for such sweeps.

    python -m benchmarks.peers [--models medium small] [--rounds 3] [--trials 8] [--epochs 3] [--save]

8 trials of 3 epochs on 6,000 images, judged on 1,000: the same network, augmentation, batch size, learning rate and
space for all (recipe.py), MLflow on a new sqlite database, and a picture of its curves in each trial. A peer's script
is written as its documentation shows; sweeper is run as a user runs it, `sweeper optimize`, with a worker a core. In a
round each tool runs once, in an order that turns from round to round. Measured are the wall seconds of the whole
command, the seconds to the first metric by the time that it bears in MLflow, the peak of proportional memory over all
processes, sampled twice a second, and the best validation accuracy. A peer's metric is in MLflow at that time;
sweeper's is in its journal, and in MLflow as soon as that has been imported beside the training. Peers are installed
into build/peers, over the present environment.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.hardware import Others, describe
from benchmarks.pages import Spread, add_save, command, conclude, head, table
from benchmarks.peers.environments import FOLDER, PEERS, python_of, versions
from benchmarks.peers.ours import optimize, run_command

OURS: Final = "sweeper"
ACCURACIES: Final = ("val/accuracy", "val_accuracy")  # as sweeper and as the scripts call it


class Sweep(NamedTuple):
    """One sweep by one tool."""

    model: str
    tool: str
    round: int
    wall_s: float
    first_metric_s: float
    peak_mib: float
    accuracy: float  # the best trial's, after its last epoch
    others: float  # cores that other processes kept busy meanwhile


def command_of(tool: str, model: str, args: argparse.Namespace, seed: int, home: Path) -> list[str]:
    """Return the command to run in `home`."""
    if tool == OURS:
        return optimize(home, model, args.trials, args.epochs, seed)
    script = str(Path(__file__).with_name(PEERS[tool].script))
    if tool == "hydra":
        options = [f"model={model}", f"epochs={args.epochs}", f"hydra.sweeper.n_trials={args.trials}",
                   f"hydra.sweeper.sampler.seed={seed}"]  # fmt: skip
    else:
        options = ["--model", model, "--epochs", str(args.epochs), "--trials", str(args.trials), "--seed", str(seed)]
    return [python_of(tool, args.envs), script, *options]


def sweep(tool: str, model: str, number: int, args: argparse.Namespace) -> Sweep:
    """Run one sweep in a folder of its own, and read what it left in MLflow."""
    with tempfile.TemporaryDirectory() as folder, Others() as others:
        home = Path(folder)
        ran = run_command(command_of(tool, model, args, number, home), home)
        first, accuracies = _recorded(home / "mlflow.db")
        pictures = {path.parents[1] for path in home.rglob("*.png") if "mlruns" in str(path) or "mlart" in str(path)}
        if len(accuracies) != args.trials or len(pictures) < args.trials:
            raise SystemExit(f"{tool}: {len(accuracies)} trials and {len(pictures)} pictures, not {args.trials}")
    first -= ran.started
    return Sweep(model, tool, number, ran.seconds, first, ran.peak_mib, max(accuracies), others.cores)


def _recorded(database: Path) -> tuple[float, list[float]]:
    """Return the UNIX time of the first metric, and the last validation accuracy of each trial."""
    marks = ",".join("?" * len(ACCURACIES))
    with closing(sqlite3.connect(database)) as connection:
        [(first,)] = connection.execute(f"SELECT min(timestamp) FROM metrics WHERE key IN ({marks})", ACCURACIES)
        rows = connection.execute(f"SELECT value FROM latest_metrics WHERE key IN ({marks})", ACCURACIES).fetchall()
    return first / 1000, [value for (value,) in rows]


def measure(args: argparse.Namespace) -> Iterator[Sweep]:
    """Run all sweeps and print a line for each."""
    tools = [OURS, *args.peers]
    for number in range(args.rounds):
        for model in args.models:
            turn = number % len(tools)
            for tool in tools[turn:] + tools[:turn]:
                done = sweep(tool, model, number, args)
                print(f"round {number + 1}/{args.rounds}: {done}", flush=True)
                yield done


# --- what they show ------------------------------------------------------------------------------


def summary(sweeps: Sequence[Sweep], model: str, tools: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each tool; ratios are taken within a round."""
    ours = {s.round: s for s in sweeps if s.model == model and s.tool == OURS}
    rows = []
    for tool in tools:
        its = [s for s in sweeps if s.model == model and s.tool == tool]
        ratios = [s.wall_s / ours[s.round].wall_s for s in its]
        rows.append({"tool": tool, "wall_s": Spread.of([s.wall_s for s in its]), "ratio": Spread.of(ratios),
                     "first_metric_s": Spread.of([s.first_metric_s for s in its]),
                     "peak_mib": Spread.of([s.peak_mib for s in its]), "accuracy": Spread.of([s.accuracy for s in its]),
                     "others": Spread.of([s.others for s in its])})  # fmt: skip
    return rows


def model_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ["tool", "wall, s", "wall / sweeper's", "first metric, s", "memory, MiB", "best accuracy", "others, cores"]
    return table(header, [
        [PEERS[r["tool"]].title if r["tool"] in PEERS else "`sweeper optimize`", r["wall_s"].show(1),
         r["ratio"].show(2, "x"), r["first_metric_s"].show(1), r["peak_mib"].show(0), r["accuracy"].show(4),
         r["others"].show(2)] for r in rows])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("small", "medium"), default=["medium", "small"])
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--envs", type=Path, default=FOLDER, help="where peers are installed; default: build/peers")
    add_save(parser)
    args = parser.parse_args()
    pythons = {name: python_of(name, args.envs) for name in args.peers}  # before anything is timed
    hardware = describe()
    names = {"ray": ("ray",), "hydra": ("hydra-core", "optuna"), "lightning": ("lightning",)}
    installed = {name: versions(pythons[name], names[name]) for name in args.peers if name in names}
    sweeps = list(measure(args))
    tools = [OURS, *args.peers]
    what = (f"{args.trials} trials of {args.epochs} epochs, 6,000 + 1,000 images; medians [min-max], "
            f"n = {args.rounds} rounds, in turn.")  # fmt: skip
    parts = head("The same sweep by other tools", hardware, what, command("peers", args))
    for model in args.models:
        parts += [f"## {model}", model_table(summary(sweeps, model, tools))]
    parts.append(f"Versions of the peers: {installed}.")
    record = {"rounds": args.rounds, "trials": args.trials, "epochs": args.epochs, "versions": installed,
              "sweeps": [s._asdict() for s in sweeps]}  # fmt: skip
    conclude("peers", hardware, parts, record, args.save)


if __name__ == "__main__":
    main()
