"""What becomes of a sweep while its MLflow server is away, slow, or overloaded: training time, points, and the backlog.

    python -m benchmarks.outage [--seconds 120] [--trials 50] [--epochs 20] [--rounds 3] [--save]

A sweep is run as a user runs it, against a real `mlflow server` behind a TCP proxy, in each round once in every mode:

    none       the server answers
    away       from the first epoch on all connections are cut and refused for --seconds, then the server is back
    slow       each request is delayed by 500 ms
    overloaded 30 % of the requests are answered 503

Pure training time is the sum over trials of what their own epochs took (benchmarks.sweep_overhead); the ratio is that
of a mode to `none` in the same round. `drained_s` is the time from the server's return until MLflow had acknowledged
everything that was written before it. Runs that come late
are those of which nothing had arrived when the command ended; `sweeper sync` then carries them. Lost points are those
in the journal and not in the store after that, doubled ones the reverse. How long the backlog takes depends on how many
trials ended meanwhile: with trials of a second each, 42 of 130 runs came late on 2 cores of an AMD EPYC, once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.hardware import Others, describe
from benchmarks.pages import Spread, add_save, conclude, head, table
from benchmarks.sweep_overhead import trial_seconds
from sweeper.tracking.fetching import run_id_of
from sweeper.tracking.reading import read_events, run_folders

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.tools.proxy import Proxy
from mlflow_store import MlflowServer

MODES = ("none", "away", "slow", "overloaded")
LATENCY, REFUSED = 0.5, 0.3


def written(journal: Path) -> int:
    """Events in the journal."""
    return sum(len(read_events(folder)) for folder in run_folders(journal))


def acknowledged(journal: Path) -> int:
    """Events that the store has acknowledged."""
    return sum(json.loads(note.read_bytes())["events"] for note in journal.glob("**/upload.json"))


def wait_for(process: subprocess.Popen[bytes], what: str, reached: Callable[[], bool]) -> None:
    """Wait until `reached()` while the sweep runs."""
    while not reached():
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended before {what}: give it more --trials or --epochs")
        time.sleep(0.05)


def take_away(process: subprocess.Popen[bytes], proxy: Proxy, journal: Path, seconds: float) -> float:
    """Cut the server off for `seconds`; the seconds from its return until the backlog had arrived."""
    wait_for(process, "the first epoch", lambda: any(journal.glob("**/events.jsonl")))
    proxy.cut()
    away = time.monotonic()
    wait_for(process, "the end of the outage", lambda: time.monotonic() > away + seconds)
    backlog = written(journal)
    proxy.mend()
    back = time.monotonic()
    while acknowledged(journal) < backlog and process.poll() is None:
        time.sleep(0.05)
    return time.monotonic() - back


def run(server: MlflowServer, mode: str, args: argparse.Namespace, home: Path, study: str) -> dict[str, float]:
    """One sweep in one mode."""
    proxy = Proxy(int(urlsplit(server.uri).port or 0))
    uri = f"http://127.0.0.1:{proxy.port}"
    options = ["--exp", "1", "--dataset", "sample", "--pruner", "none", "--no-final", "--trials", str(args.trials),
               "--epochs", str(args.epochs), "--workers", "2", "--study", study, "--tracking-uri", uri]  # fmt: skip
    proxy.delay = LATENCY if mode == "slow" else 0.0
    begin = time.monotonic()
    env, journal = os.environ | {"SWEEPER_HOME": str(home)}, home / "journal"
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "optimize", *options], env=env, stdout=subprocess.DEVNULL
    )
    result = {}
    if mode == "overloaded":  # after the first epoch: at its start the command refuses a server that answers 503
        wait_for(process, "the first epoch", lambda: any(journal.glob("**/events.jsonl")))
        proxy.refused = REFUSED
    if mode == "away":
        result["drained_s"] = take_away(process, proxy, journal, args.seconds)
    if process.wait():
        raise SystemExit(f"the sweep failed with exit code {process.returncode}")
    wall = time.monotonic() - begin
    seconds, _ = trial_seconds(home, study)
    result["late"] = sum(not run_id_of(journal, str(path.relative_to(journal)), uri) for path in run_folders(journal))
    subprocess.run([sys.executable, "-m", "sweeper", "sync", "--tracking-uri", uri], env=env, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    proxy.cut()
    return result | {"pure_s": sum(seconds), "wall_s": wall, **lost(journal, server.uri, uri)}


def lost(journal: Path, uri: str, through: str) -> dict[str, float]:
    """Points in the journal and not in the store, and the reverse."""
    from mlflow import MlflowClient

    client, points, stored = MlflowClient(tracking_uri=uri), Counter(), Counter()
    for folder in run_folders(journal):
        run_id = run_id_of(journal, str(folder.relative_to(journal)), through) or ""
        for event in read_events(folder):
            points.update((run_id, k, event.get("step", 0), v) for k, v in event.get("metrics", {}).items())
        for name in client.get_run(run_id).data.metrics:
            stored.update((run_id, name, m.step, m.value) for m in client.get_metric_history(run_id, name))
    return {"points": points.total(), "lost": (points - stored).total(), "doubled": (stored - points).total()}


def measure(args: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """Run the rounds, printing a line for each sweep."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        server.start()
        try:
            for number in range(args.rounds):
                modes = {}
                for mode in args.modes:
                    home = Path(folder) / f"{mode}-{number}"
                    home.mkdir()
                    with Others() as others:
                        modes[mode] = run(server, mode, args, home, f"{mode}-{number}")
                    modes[mode]["others"] = others.cores
                    print(f"round {number + 1}/{args.rounds}, {mode}: {modes[mode]}", flush=True)
                    shutil.rmtree(home)
                rounds.append(modes)
        finally:
            server.stop()
    return rounds


def row(mode: str, rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """What the table says of one mode."""
    of_mode = [r[mode] for r in rounds]
    ratio = [r[mode]["pure_s"] / r["none"]["pure_s"] for r in rounds] if "none" in rounds[0] else []
    drained = [m["drained_s"] for m in of_mode if "drained_s" in m]
    return [mode, Spread.of([m["pure_s"] for m in of_mode]).show(1), Spread.of(ratio).show(3) if ratio else "",
            Spread.of([m["wall_s"] for m in of_mode]).show(1), Spread.of(drained).show(1) if drained else "",
            *(f"{sum(m[name] for m in of_mode):.0f}" for name in ("late", "points", "lost", "doubled")),
            Spread.of([m["others"] for m in of_mode]).show(2)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    rounds = measure(args)
    what = (
        f"`--exp 1` on the sample, {args.trials} trials of {args.epochs} epochs, 2 workers; an outage of "
        f"{args.seconds:g} s. Medians [min-max], n = {args.rounds}; points are summed over the rounds. The targets: "
        "`away` at most 1.05 of `none`, drained within 60 s, 0 lost."
    )
    numbers = f"--seconds {args.seconds:g} --trials {args.trials} --epochs {args.epochs} --rounds {args.rounds}"
    line = f"python -m benchmarks.outage {numbers} --modes {' '.join(args.modes)}"
    header = ["server", "pure training, s", "over none", "whole command, s", "drained after, s", "late runs",
              "points", "lost", "doubled", "others, cores"]  # fmt: skip
    parts = [*head("A sweep while its MLflow server is away, slow or overloaded", hardware, what, line),
             table(header, [row(mode, rounds) for mode in args.modes])]  # fmt: skip
    conclude("outage", hardware, parts, {"rounds": rounds}, args.save)


if __name__ == "__main__":
    main()
