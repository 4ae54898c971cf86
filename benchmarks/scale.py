"""How does a sweep's bookkeeping grow, at 100, 1,000 and 10,000 trials: ask, status, report, MLflow search, memory?

    python -m benchmarks.scale [--sizes 100 1000 10000] [--asks 30] [--save]

A finished sweep of each size is written in bulk (synthetic.py). On it are measured: opening the study as its driver
does; an ask, and by that driver, with their transactions, the beginning of a trial, the report of an epoch and the end
of a trial; the commands `sweeper status` and `sweeper
report`; a search of MLflow's runs for the 50 best of the study; and `sweeper optimize` continuing the sweep by one
trial, which also looks through the journal, draws the figures and writes the report: its seconds, and the peak of its
proportional memory, without its workers. The exponent is that of the growth between the two largest sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from matplotlib.figure import Figure

from benchmarks import synthetic
from benchmarks.hardware import Others, describe
from benchmarks.pages import ROOT, add_save, conclude, head, table
from benchmarks.processes import Ran, run

COLUMNS: Final = {  # name in the record: heading, digits
    "open_s": ("open, s", 2),
    "ask_ms": ("ask, ms", 0),
    "begin_ms": ("beginning, written, ms", 0),
    "report_ms": ("report of an epoch, ms", 0),
    "tell_ms": ("end of a trial, ms", 0),
    "status_s": ("`status`, s", 2),
    "page_s": ("`report`, s", 1),
    "page_mb": ("report, MB", 1),
    "search_ms": ("MLflow search, ms", 0),
    "one_more_s": ("`optimize`, one more, s", 1),
    "driver_mib": ("its memory, MiB", 0),
}
TARGETS: Final = {"ask_ms": 50, "status_s": 5, "page_s": 60, "driver_mib": 1024}  # at 10,000 trials


def sweeper(home: Path, *options: str) -> Ran:
    """Run a command on the sweep in `home`."""
    env = {"SWEEPER_HOME": str(home), "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
    return run([sys.executable, "-m", "sweeper", *options], home, env)


def _seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def milliseconds(call: Callable[[], object], times: int) -> float:
    """The median of `times` calls."""
    return 1000 * statistics.median(_seconds(call) for _ in range(times))


def drive(home: Path, asks: int) -> dict[str, float]:
    """What the driver does with its study, in this process; medians. The trials end as failed, so that none counts."""
    start = perf_counter()
    study = synthetic.open_synthetic(home)
    found = {"open_s": perf_counter() - start}
    asked: list[int] = []
    with study.together():  # to time memory and database apart
        both = [(_seconds(lambda: asked.append(study.ask().number)), _seconds(study.begin)) for _ in range(asks)]
        found["ask_ms"], found["begin_ms"] = (1000 * statistics.median(taken) for taken in zip(*both, strict=True))
        reports = [(number, step) for number in asked for step in range(1, 5)]

        def report() -> None:
            study.report(*reports.pop(0), 0.8)
            study.settle()

        def end() -> None:
            study.fail(asked.pop(0), "a benchmark")
            study.settle()

        found["report_ms"] = milliseconds(report, len(reports))
        found["tell_ms"] = milliseconds(end, asks)
    study.close()
    return found


def search(home: Path) -> float:
    """Milliseconds of a search for the 50 best runs of the study, as the UI asks for them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    found = client.get_experiment_by_name("bn-dropout")
    assert found is not None, "synthetic.make makes it"

    def ask() -> None:
        best = client.search_runs([found.experiment_id], f"tags.`sweeper.study` = '{synthetic.NAME}'", max_results=50,
                                  order_by=["metrics.`final/val_accuracy` DESC"])  # fmt: skip
        assert len(best) == 50, "every trial has a run"

    return milliseconds(ask, 5)


def measure(size: int, asks: int) -> dict[str, float]:
    """Everything at one size."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        synthetic.make(home, size)
        found = _apart(home, asks)
        found["search_ms"] = search(home)
        found["status_s"] = statistics.median(sweeper(home, "status").seconds for _ in range(3))
        found["page_s"] = sweeper(home, "report").seconds
        found["page_mb"] = (home / "report" / f"{synthetic.NAME}.html").stat().st_size / 1e6
        more = sweeper(home, "optimize", *synthetic.OPTIONS, "--trials", str(size + 1), "--no-final")
        found |= {"one_more_s": more.seconds, "driver_mib": more.first_mib}
    print(f"{size} trials: {found}", flush=True)
    return {"trials": size, **found}


def _apart(home: Path, asks: int) -> dict[str, float]:
    """`drive` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scale", "--drive", str(home), "--asks", str(asks)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(rows: Sequence[dict[str, float]], name: str) -> float:
    """The power with which a cost grows between the two largest sizes."""
    small, large = rows[-2], rows[-1]
    return math.log(large[name] / small[name]) / math.log(large["trials"] / small["trials"])


def growth_table(rows: Sequence[dict[str, float]]) -> str:
    """A line a cost."""
    header = ["", *[f"{row['trials']:,} trials" for row in rows], "exponent", "target at 10,000"]
    lines = []
    for name, (title, digits) in COLUMNS.items():
        grows = f"{exponent(rows, name):.2f}" if len(rows) > 1 else "-"
        lines.append([title, *[f"{row[name]:.{digits}f}" for row in rows], grows, str(TARGETS.get(name, ""))])
    return table(header, lines)


def picture(rows: Sequence[dict[str, float]]) -> Figure:
    """Each cost over that at the smallest size, both axes logarithmic."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    sizes = [row["trials"] for row in rows]
    for name, (title, _) in COLUMNS.items():
        axes.plot(sizes, [row[name] / rows[0][name] for row in rows], marker="o", label=title.replace("`", ""))
    axes.plot(sizes, [size / sizes[0] for size in sizes], color="0.6", linestyle="--", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="trials", ylabel=f"times the cost at {sizes[0]:.0f} trials")
    axes.legend(fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--asks", type=int, default=30)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)  # the process of a driver
    add_save(parser)
    args = parser.parse_args()
    if args.drive:
        print(json.dumps(drive(args.drive, args.asks)))
        return
    hardware = describe()
    with Others() as others:
        rows = [measure(size, args.asks) for size in sorted(args.sizes)]
    line = f"python -m benchmarks.scale --sizes {' '.join(map(str, args.sizes))} --asks {args.asks}"
    what = (f"Synthetic sweeps of {synthetic.EPOCHS} epochs, a quarter pruned; sqlite. Medians of {args.asks} asks and "
            f"ends, {4 * args.asks} reports, 5 searches, 3 of `status`; the report and `optimize` once. "
            f"Other processes kept {others.cores:.2f} cores busy meanwhile.")  # fmt: skip
    parts = [*head("What grows with the number of trials", hardware, what, line), growth_table(rows)]
    conclude("scale", hardware, parts, {"rows": rows, "others": others.cores}, args.save, picture(rows))


if __name__ == "__main__":
    main()
