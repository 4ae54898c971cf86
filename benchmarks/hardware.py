"""Describe the machine of a measurement: processor, versions, and the fastest matrix product it reaches.

`python -m benchmarks.hardware` prints it as JSON.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch

from benchmarks.processes import adopt_orphans
from sweeper import __version__

THREADS: Final = 2  # of torch, wherever a benchmark computes
FLAGS: Final = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
PACKAGES: Final = ("torch", "torchvision", "pillow", "mlflow", "optuna")
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATMUL_SIDE: Final = 2048  # three fp32 matrices of 16 MiB
SLOW_MATMUL_SIDE: Final = 256  # where a product of the former takes long, as of bf16 without instructions for it
GPU_MATMUL_SIDE: Final = 8192
MATMUL_SECONDS: Final = 1.0
TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second


def describe(threads: int = THREADS, device: str = "cpu") -> dict[str, Any]:
    """Return the machine, versions, date, load, and the matmul peaks of `threads` threads or of the GPU `device`."""
    cpu = _cpuinfo()
    load = os.getloadavg()[0]
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}
    return gpu | {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_model": " ".join(cpu[name] for name in ("vendor_id", "cpu family", "model") if name in cpu),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "flags": [flag for flag in FLAGS if flag in cpu.get("flags", "").split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_1m": round(load, 2),
        "python": platform.python_version(),
        "versions": {"sweeper": __version__, **{name: _version(name) for name in PACKAGES}},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "threads": threads,
        "matmul_gflops": {name: round(matmul_peak(dtype, threads, device), 1) for name, dtype in DTYPES.items()},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int | None:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def no_gpu() -> str:
    """Return why a benchmark of a GPU cannot run here, or an empty string."""
    return "" if torch.cuda.is_available() else "no GPU here: torch sees no CUDA device"


def matmul_peak(dtype: torch.dtype, threads: int = THREADS, device: str = "cpu") -> float:
    """Return the GFLOP/s of the fastest product of two square matrices within a second, after one to warm up.

    A product of side n is counted as 2n³ operations. It is the practical peak that a network's
    convolutions and linear layers are compared with; the processor's theoretical one is higher.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if device != "cpu":
            return _peak(GPU_MATMUL_SIDE, dtype, device)
        peak = _peak(SLOW_MATMUL_SIDE, dtype, device)
        slow = 2 * MATMUL_SIDE**3 / peak / 1e9 > MATMUL_SECONDS
        return peak if slow else _peak(MATMUL_SIDE, dtype, device)
    finally:
        torch.set_num_threads(before)


def _peak(side: int, dtype: torch.dtype, device: str) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = a @ b
    times: list[float] = []
    while sum(times) < MATMUL_SECONDS:
        _wait(device)
        start = perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        times.append(perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


class Others:
    """Processor time that other processes take, on average, while a block runs and waits for its children.

    A benchmark on a shared machine reports it: whatever is well above 0 has disturbed the measurement. This process and
    what comes of it do not count. The time of a process that ends meanwhile counts where its parent waits for it.
    """

    def __enter__(self) -> Others:
        adopt_orphans()
        self._start = perf_counter(), _processes()
        return self

    def __exit__(self, *_: object) -> None:
        start, before = self._start
        now = _processes()
        ours = {os.getpid()}
        while found := {pid for pid, it in now.items() if it.parent in ours} - ours:
            ours |= found
        rises = {pid: it.seconds - (before[pid].seconds if pid in before else 0.0) for pid, it in now.items()}
        for pid in before.keys() - now.keys():  # what it had worked before counts as its parent's now
            heir = before[pid].parent
            while heir in before and heir not in now:
                heir = before[heir].parent
            if heir in rises:
                rises[heir] -= before[pid].seconds
        self.cores = sum(max(0.0, rise) for pid, rise in rises.items() if pid not in ours) / (perf_counter() - start)


class _Process(NamedTuple):
    parent: int
    seconds: float  # of its own, and of the children that it has waited for


def _processes() -> dict[int, _Process]:
    """All that run, from Linux's /proc/PID/stat (proc(5)); empty elsewhere. Under -1 is what the hypervisor took."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])) / TICKS)
    if found:
        found[-1] = _Process(0, int(Path("/proc/stat").read_text().split()[8]) / TICKS)
    return found


def _cpuinfo() -> dict[str, str]:
    """The fields of Linux's /proc/cpuinfo for its first processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


if __name__ == "__main__":
    print(json.dumps(describe(), indent=2))
