"""The files of a folder that others may be writing."""

from __future__ import annotations

import os
from pathlib import Path

from sweeper.core.inside import files_inside


def test_files_that_are_being_written_aside_are_left_out(tmp_path: Path):
    folder = tmp_path / "artifacts" / "curves"
    folder.mkdir(parents=True)
    for name in ("loss.png", f".loss.png.{os.getpid()}.part", ".hidden", "a.part"):
        (folder / name).write_bytes(b"x")
    assert files_inside(tmp_path, "artifacts", 10) == [
        "artifacts/curves/.hidden", "artifacts/curves/a.part", "artifacts/curves/loss.png",
    ]  # fmt: skip
