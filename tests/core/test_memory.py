"""Free memory, of the machine and by the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from sweeper.core.memory import free_memory
from tests.core.test_cores import make


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"memory.max": "5000\n", "memory.current": "3000\n", "memory.stat": "a 1\ninactive_file 9\n"}, 2_009),
        ("0::/app/job", {"app/job/memory.max": "max\n", "app/memory.max": "900\n", "app/memory.current": "1000\n",
                         "app/memory.stat": "anon 1\n"}, 0),
        ("9:memory:/a", {"memory/a/memory.limit_in_bytes": "5000", "memory/a/memory.usage_in_bytes": "4000",
                         "memory/a/memory.stat": "cache 1\ntotal_inactive_file 7\n"}, 1_007),
    ],
)  # fmt: skip
def test_a_limit_leaves_less(tmp_path: Path, membership: str, files: dict[str, str], expected: int):
    make(tmp_path, files | {"membership": membership})
    assert free_memory(tmp_path, tmp_path / "membership") == expected


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("", {}),
        ("0::/", {"memory.max": "max\n", "memory.current": "3000\n", "memory.stat": "inactive_file 1\n"}),
        ("0::/", {"memory.max": "torn", "memory.current": "3000\n", "memory.stat": "inactive_file 1\n"}),
        ("0::/", {"memory.max": "5000\n"}),
        ("4:cpu:/", {"cpu/memory.max": "1", "cpu/memory.current": "1", "cpu/memory.stat": "inactive_file 1\n"}),
    ],
)
def test_without_a_limit_the_machine_decides(tmp_path: Path, membership: str, files: dict[str, str]):
    make(tmp_path, files | {"membership": membership})
    total = psutil.virtual_memory().total
    assert total / 100 < free_memory(tmp_path, tmp_path / "membership") < total
