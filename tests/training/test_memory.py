from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# 60 times 40 MB, 10,000 pages, above the size from which on glibc always asks the system
FAULTS = """
import resource, torch
from sweeper.memory import keep_freed
if {keep}: keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.zeros(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_and_not_cleared_anew_by_the_system():
    assert page_faults(keep=True) < 150_000 < 500_000 < page_faults(keep=False)
