"""The number of processors, by affinity and by the quotas of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.core.cores import cores


def make(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/app/job", {"app/job/cpu.max": "max 100000\n", "app/cpu.max": "150000 100000\n"}, 1),
        ("0::/gone", {"cpu.max": "50000 100000\n"}, 1),
        ("4:cpu,x:/d", {"cpu,x/cpu.cfs_quota_us": "100000", "cpu,x/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "30000", "cpu/a/cpu.cfs_period_us": "100000"}, 1),
    ],
)  # fmt: skip
def test_a_quota_limits_the_processors(tmp_path: Path, membership: str, files: dict[str, str], expected: int):
    make(tmp_path, files | {"membership": membership})
    assert cores(tmp_path, tmp_path / "membership") == expected


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("", {}),
        ("no colons", {}),
        ("0::/", {"cpu.max": "max 100000\n"}),
        ("0::/", {"cpu.max": "torn"}),
        ("0::/", {"cpu.max": "99000000 100000\n"}),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
        ("4:memory:/", {"memory/cpu.cfs_quota_us": "1000", "memory/cpu.cfs_period_us": "100000"}),
    ],
)
def test_without_a_quota_the_affinity_decides(tmp_path: Path, membership: str, files: dict[str, str]):
    make(tmp_path, files | {"membership": membership})
    assert cores(tmp_path, tmp_path / "membership") == len(os.sched_getaffinity(0))
