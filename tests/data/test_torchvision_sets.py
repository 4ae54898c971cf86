"""The data sets of torchvision, by torchvision's own classes, on files in their formats with sums of their own.

The real files are not here: their MD5 sums stand in torchvision, so files that are made up are refused.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets

from sweeper.core.images import Array
from sweeper.data.sources import find
from sweeper.data.torchvision_sets import KINDS, read_set, torchvision_source
from tests.support.little import idx, refusal

RANDOM = np.random.default_rng(3)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def images(count: int, *shape: int) -> Array:
    return RANDOM.integers(0, 256, (count, *shape), np.uint8)


def mnist(root: Path) -> tuple[Any, Array, Array]:
    """MNIST of 40 + 20 images: its class with the sums of these files, and the training and test pixels."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = {"train": images(40, 28, 28), "t10k": images(20, 28, 28)}
    resources = []
    for part, array in pixels.items():
        labels = (np.arange(len(array)) % 10).astype(np.uint8)
        for name, content in ((f"{part}-images-idx3-ubyte", idx(array)), (f"{part}-labels-idx1-ubyte", idx(labels))):
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            resources.append((f"{name}.gz", md5(raw / f"{name}.gz")))
    kind = type("MNIST", (torchvision.datasets.MNIST,), {"resources": resources})
    return kind, pixels["train"][..., None], pixels["t10k"][..., None]


def cifar10(root: Path) -> tuple[Any, Array, Array]:
    """CIFAR10 of 40 + 20 images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    arrays = {"data_batch_1": images(40, 3, 32, 32), "test_batch": images(20, 3, 32, 32)}
    for name, array in arrays.items():
        batch = {"data": array.reshape(len(array), -1), "labels": [i % 10 for i in range(len(array))]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    sums = {name: md5(folder / name) for name in (*arrays, "batches.meta")}
    kind = type("CIFAR10", (torchvision.datasets.CIFAR10,), {
        "train_list": [["data_batch_1", sums["data_batch_1"]]], "test_list": [["test_batch", sums["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
    })  # fmt: skip
    return kind, *(array.transpose(0, 2, 3, 1) for array in arrays.values())  # type: ignore[return-value]


def svhn(root: Path) -> tuple[Any, Array, Array]:
    """SVHN of 40 + 20 images; the file calls the digit 0 ten."""
    root.mkdir(parents=True)
    arrays = {"train": images(40, 32, 32, 3), "test": images(20, 32, 32, 3)}
    parts = {}
    for part, array in arrays.items():
        labels = np.array([[i % 10 or 10] for i in range(len(array))], np.uint8)
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": array.transpose(1, 2, 3, 0), "y": labels})
        parts[part] = ["", path.name, md5(path)]
    return type("SVHN", (torchvision.datasets.SVHN,), {"split_list": parts}), arrays["train"], arrays["test"]


CLASSES = {mnist: "3 - three", cifar10: "class 3", svhn: "3"}
TEST_IMAGES = {
    mnist: "MNIST/raw/t10k-images-idx3-ubyte.gz", cifar10: "cifar-10-batches-py/test_batch", svhn: "test_32x32.mat",
}  # fmt: skip


@pytest.mark.parametrize("make", CLASSES, ids=lambda make: make.__name__)
def test_the_images_are_those_that_torchvision_reads(tmp_path: Path, make: Any):
    kind, train, test = make(tmp_path / "root")
    found = read_set(make.__name__, kind, str(tmp_path / "root"))
    assert np.array_equal(found.train.pixels, train)
    assert np.array_equal(found.test.pixels, test)
    assert np.array_equal(found.train.labels, np.arange(40) % 10)
    assert found.train.pixels.flags.c_contiguous
    assert (len(found.classes), found.classes[3]) == (10, CLASSES[make])


@pytest.mark.parametrize("make", CLASSES, ids=lambda make: make.__name__)
def test_a_file_with_another_sum_is_refused(tmp_path: Path, make: Any):
    kind, *_ = make(tmp_path / "root")
    changed = tmp_path / "root" / TEST_IMAGES[make]
    changed.write_bytes(changed.read_bytes() + b"more")
    message = refusal(read_set, make.__name__, kind, str(tmp_path / "root"))
    assert message.startswith(f"{tmp_path}/root does not hold {make.__name__} in torchvision's layout (")
    assert "Name torchvision's root with --data-dir" in message


def test_images_of_mnist_that_were_unpacked_in_part_are_refused(tmp_path: Path):
    kind, *_ = mnist(tmp_path / "root")
    unpacked = tmp_path / "root" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    unpacked.write_bytes(unpacked.read_bytes()[:5_000])
    assert "does not hold mnist in torchvision's layout" in refusal(read_set, "mnist", kind, str(tmp_path / "root"))


@pytest.mark.parametrize(("name", "make"), [("mnist", mnist), ("cifar10", cifar10), ("svhn", svhn)])
def test_files_that_are_made_up_are_not_those_of_the_data_set(tmp_path: Path, name: str, make: Any):
    make(tmp_path / "root")
    message = refusal(lambda: find(name, tmp_path / "root", 0, print))
    assert message.startswith(f"{tmp_path}/root does not hold {name} in torchvision's layout (")


@pytest.mark.parametrize("name", KINDS)
def test_a_root_without_the_data_set_is_refused(tmp_path: Path, name: str):
    assert f"{tmp_path} does not hold {name}" in refusal(lambda: find(name, tmp_path, 0, print))


def test_a_data_set_that_cannot_be_downloaded_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Away(torchvision.datasets.MNIST):
        mirrors = ("http://127.0.0.1:1/",)

    monkeypatch.delenv("SWEEPER_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "MNIST", Away)
    message = refusal(torchvision_source, "mnist", None)
    assert message.startswith("mnist was not found and cannot be downloaded (")
    assert "Name torchvision's root with --data-dir." in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "sweeper" / "mnist").exists()
