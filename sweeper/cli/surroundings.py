"""Prepare the environment of a command: standard streams, Matplotlib, TMPDIR, HOME."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

STREAMS: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their file descriptors
LONGEST_TMPDIR: Final = 60  # characters: the path of a socket in it may have 107 (man 7 unix)


def prepare() -> None:
    """Open closed streams, and replace unusable settings."""
    for number, (name, mode) in enumerate(STREAMS.items()):
        _open_stream(number, name, mode)
    os.environ["MPLBACKEND"] = "Agg"  # that of a notebook cannot be imported everywhere, and nothing is shown
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of its caches
    if len(os.environ.get("TMPDIR", "")) > LONGEST_TMPDIR:
        os.environ["TMPDIR"] = "/tmp"  # noqa: S108 - only folders that tempfile makes are used in it
    try:
        Path.home()
    except RuntimeError:  # no HOME, and no entry in passwd, as in many a container: MLflow needs one, and caches do
        os.environ["HOME"] = mkdtemp(prefix="sweeper-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def _open_stream(number: int, name: str, mode: str) -> None:
    """Open the null device for a closed stream: otherwise the next opened file would receive its output."""
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if getattr(sys, name) is None:
        setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as the process
