"""How long until `sweeper serve` is ready, how long until it has stopped, and how much memory does it take?

    python -m benchmarks.serve [--rounds 5] [--save]

Each round serves twice from one home: a new one, for which databases and tables are made, then the same again. Ready is
when the last line is printed; the memory is the proportional set size of all processes a moment later, when each part
has answered one request for its page. A stop is a SIGTERM to the command.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

import psutil

from benchmarks.hardware import Others, describe
from benchmarks.pages import ROOT, Spread, add_save, conclude, head, table
from benchmarks.processes import pss_mib

TARGETS: Final = "The targets: ready within 20 s, 700 MB in all."
PARTS: Final = {
    "sweeper.server.dashboard": "dashboard",
    "postgres": "PostgreSQL",  # whose processes for MLflow are named after it
    "mlflow": "MLflow",
    "serve": "sweeper serve",
}
NAMES: Final = {"ready_s": "ready, s", "stopped_s": "stopped, s", "memory_mb": "memory, MB", "processes": "processes"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def once(home: Path) -> dict[str, float]:
    """Serve, look, stop."""
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "sweeper", "serve", "--home", str(home), "--port", str(ports[0]),
               "--dashboard-port", str(ports[1])]  # fmt: skip
    with Others() as others:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if not any(line.startswith("# trials:") for line in iter(process.stdout.readline, "")):
            raise SystemExit(f"sweeper serve did not start: {process.communicate()[1]}")
        ready = time.monotonic() - began
        for port, path in zip(ports, ("/", "/dashboard/"), strict=True):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60).close()
        parts = dict.fromkeys(PARTS.values(), 0.0)
        served = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for part in served:
            line = " ".join(part.cmdline())
            parts[next(name for word, name in PARTS.items() if word in line or name == "sweeper serve")] += pss_mib(
                part.pid
            )
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        stopped = time.monotonic() - began
    megabytes = {name: value * 2**20 / 1e6 for name, value in parts.items()}
    return {"ready_s": ready, "stopped_s": stopped, "memory_mb": sum(megabytes.values()), "processes": len(served),
            **megabytes, "others": others.cores}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    add_save(parser)
    args = parser.parse_args()
    hardware = describe()
    rounds: dict[str, list[dict[str, float]]] = {"a new home": [], "the same again": []}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for which, found in rounds.items():
                found.append(once(Path(folder)))
                print(f"round {number + 1}/{args.rounds}, {which}: {found[-1]}", flush=True)
    rows = [
        [NAMES.get(name, f"of these {name}" if name != "others" else "others, cores"),
         *(Spread.of([r[name] for r in found]).show(1 if "_s" in name else 2 if name == "others" else 0)
           for found in rounds.values())]
        for name in rounds["a new home"][0]
    ]  # fmt: skip
    what = f"Medians [min-max], n = {args.rounds} of each. {TARGETS}"
    parts = head("`sweeper serve`", hardware, what, f"python -m benchmarks.serve --rounds {args.rounds}")
    parts.append(table(["", *rounds], rows))
    conclude("serve", hardware, parts, {"rounds": rounds}, args.save)


if __name__ == "__main__":
    main()
