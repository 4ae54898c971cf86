"""Threads, memory, devices and precision of the process that trains."""

from __future__ import annotations

import ctypes
import re
from typing import Final

import torch

from sweeper.core.config import DEVICE, RunConfig
from sweeper.core.errors import ConfigError

M_TRIM_THRESHOLD: Final = -1  # <malloc.h>
M_MMAP_MAX: Final = -4
NEVER: Final = 2**31 - 1  # free bytes on top of the heap before they are handed back


def keep_freed() -> None:
    """Let this process reuse the memory that it frees; without glibc, do nothing.

    A step allocates and frees some megabytes for each activation. By default glibc hands such blocks back to the
    system, which clears each page again: a fifth of the time of a short training (docs/development/log.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def use_threads(threads: int) -> None:
    """Compute with `threads` threads, on which results depend in the last bits, and keep freed memory."""
    torch.set_num_threads(threads)
    keep_freed()


def resolve_device(name: str) -> str:
    """Return the device that `name` stands for: `auto` is cuda if there is a usable GPU, else cpu.

    Raises:
        ConfigError: there is no such device, or nothing can be allocated on it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(DEVICE, name):
        raise ConfigError(f"device={name[:60]!r}: no such device. Use auto, cpu, cuda or cuda:N.")
    try:
        torch.empty(1, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"device={name!r}: cannot be used here ({reason}). Use auto, cpu, cuda or cuda:N.") from None
    return name


def hardware(device: str) -> str:
    """Return the name of the hardware. On the same one, with as many threads, results are equal in each bit."""
    if device != "cpu":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{torch.cpu.get_capabilities().get('cpu_name', 'unknown CPU')}, {torch.backends.cpu.get_cpu_capability()}"


def resolve_precision(name: str, device: str) -> str:
    """Return the precision that `name` stands for: `auto` is bf16 if the hardware is faster in it, else fp32.

    bf16 is faster on a GPU that has it, and on a CPU with AMX or AMD's avx512_bf16. Intel's avx512_bf16 without AMX
    runs at half the rate of fp32 (docs/development/log.md).

    Raises:
        ConfigError: bf16 was asked for on a GPU that has none.
    """
    if device != "cpu":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "bf16" and not supported:
            raise ConfigError(f"precision='bf16': {device} does not support bf16. Use fp32 or auto.")
        return ("bf16" if supported else "fp32") if name == "auto" else name
    if name != "auto":
        return name
    cpu = torch.cpu.get_capabilities()
    amd = "amd" in str(cpu.get("cpu_name", "")).lower()
    return "bf16" if cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and amd) else "fp32"


def autocast(config: RunConfig) -> torch.autocast:
    """Return the context in which the networks of `config` compute."""
    device = torch.device(config.device).type
    return torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=True)
