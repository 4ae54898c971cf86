from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from sweeper.core.errors import ConfigError
from sweeper.training.device import resolve_device, resolve_precision


@pytest.mark.parametrize("name", ["foo", "cuda:9", "cuda:-1", ""])
def test_a_device_that_is_not_there_is_refused_in_one_line(name: str):
    with pytest.raises(ConfigError, match="Use auto, cpu, cuda or cuda:N") as caught:
        resolve_device(name)
    assert f"device={name!r}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_automatic_device_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device("auto") == device


def test_the_cpu_is_always_there():
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("cpu", "precision"),
    [
        ({}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_f": True}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "fp32"),
    ],
    ids=str,
)
def test_the_automatic_precision_is_bf16_if_a_cpu_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, Any], precision: str
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert resolve_precision("auto", "cpu") == precision
    assert [resolve_precision(name, "cpu") for name in ("fp32", "bf16")] == ["fp32", "bf16"]  # as asked for


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_automatic_precision_is_bf16_if_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert resolve_precision("auto", "cuda") == precision
    assert resolve_precision("fp32", "cuda") == "fp32"
    if not supported:
        with pytest.raises(ConfigError, match="precision='bf16': cuda does not support bf16"):
            resolve_precision("bf16", "cuda")


FAULTS = """
import resource, torch
from sweeper.training.device import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.zeros(10_000_000)  # 40 MB, 10,000 pages, above the size from which on glibc always asks the system
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_and_not_cleared_anew_by_the_system():
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert 2 * after < before
