"""A data set of 40 + 20 images in place of FashionMNIST's 70,000. A plugin of pytest."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import DataError
from sweeper.core.images import Array
from sweeper.data import fashion
from sweeper.data.fashion import SIDE, FashionSource, IdxFile, Manifest

SMALL = RunConfig(batch_size=8, placement="none")  # fits the 30 training images that `little` leaves


def refusal(function: Callable[..., Any], *args: Any, error: type[Exception] = DataError) -> str:
    """Return the message of the error that the call raises; it is always one line."""
    with pytest.raises(error) as caught:
        function(*args)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def idx(values: Array) -> bytes:
    """Return the content of an idx file."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def contents(images: int, seed: int) -> tuple[bytes, bytes]:
    """Return random images, and labels that hold each class equally often, as idx."""
    pixels = np.random.default_rng(seed).integers(0, 256, (images, SIDE, SIDE), np.uint8)
    return idx(pixels), idx((np.arange(images) % 10).astype(np.uint8))


def described(name: str, content: bytes) -> IdxFile:
    """Return the manifest's entry for `content`."""
    dims = content[3]
    return IdxFile(name, struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims]), hashlib.sha256(content).hexdigest())


def declare(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the four files stand for FashionMNIST."""
    a, b, c, d = (described(name, content) for name, content in files.items())
    manifest = Manifest("fashion-mnist", (a, b), (c, d), holdout=10)
    monkeypatch.setattr(fashion, "FULL", manifest)


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files, gzipped, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def at(folder: Path) -> FashionSource:
    """Return the little data set in `folder`."""
    return FashionSource(fashion.FULL, folder)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The four files, decompressed, of a little data set that now stands for FashionMNIST."""
    names = [file.name for file in fashion.FULL.train + fashion.FULL.test]
    files = dict(zip(names, contents(40, 1) + contents(20, 2), strict=True))
    declare(files, monkeypatch)
    return files


@pytest.fixture
def folder(little: dict[str, bytes], tmp_path: Path) -> Path:
    """A folder of the four files, gzipped."""
    return write(little, tmp_path / "little")
