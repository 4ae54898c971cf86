from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.errors import DataError, SweeperError
from sweeper.data.arrays import FOUR, decoded, function_source, npz_source, read_npz
from tests.support.little import refusal
from tests.support.own_images import write_npz

Arrays = dict[str, Any]


def arrays(**others: Any) -> Arrays:
    """Arrays of 40 + 20 random images of four classes, 8x10 pixels in colour."""
    random = np.random.default_rng(1)
    made: Arrays = {
        "x_train": random.integers(0, 256, (40, 8, 10, 3), np.uint8), "y_train": np.arange(40) % 4,
        "x_test": random.integers(0, 256, (20, 8, 10, 3), np.uint8), "y_test": np.arange(20) % 4,
    }  # fmt: skip
    return made | others


def grey(pixels: Any) -> Any:
    return pixels[..., 0]


def test_an_npz_file_is_read_as_it_was_written(tmp_path: Path):
    path = write_npz(tmp_path / "own.npz")
    source, written = npz_source(str(path)), np.load(path)
    for part in ("train", "test"):
        found = source.read(part)
        assert np.array_equal(found.pixels, written[f"x_{part}"])
        assert np.array_equal(found.labels, written[f"y_{part}"])
        assert (found.pixels.dtype, found.labels.dtype) == (np.uint8, np.int64)
    spec = source.spec
    assert (spec.name, source.place) == (str(path), str(path))
    assert (spec.classes, spec.shape) == (tuple("0123456"), (32, 32, 3))
    assert (spec.train_images, spec.test_images, spec.holdout) == (150, 70, 15)


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path: Path):
    path = write_npz(tmp_path / "own.npz")
    spec, scaled = npz_source(str(path)).spec, np.load(path)["x_train"] / 255
    assert spec.mean == pytest.approx(scaled.mean((0, 1, 2)), rel=1e-12)
    assert spec.std == pytest.approx(scaled.std((0, 1, 2)), rel=1e-12)
    assert len(set(spec.mean)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": 1 - arrays()["x_train"]},
        {"x_test": arrays()["x_test"][:, ::-1]},
        {"y_train": arrays()["y_train"][::-1]},
        {"y_test": arrays()["y_test"][::-1]},
        {"classes": ["a", "b", "c", "d"]},
        {"x_train": arrays()["x_train"].reshape(40, 10, 8, 3), "x_test": arrays()["x_test"].reshape(20, 10, 8, 3)},
    ],
    ids=lambda change: "+".join(change),
)  # fmt: skip
def test_the_hash_changes_with_everything_that_is_trained_on(tmp_path: Path, change: Arrays):
    def digest(**others: Any) -> str:
        np.savez(tmp_path / "own.npz", **arrays(**others))
        return npz_source(str(tmp_path / "own.npz")).spec.sha256

    first = digest()
    assert digest() == first
    assert digest(**change) != first


def test_a_pickled_source_holds_no_pixels_and_reads_the_same_images_again(tmp_path: Path):
    path = write_npz(tmp_path / "own.npz")
    source = npz_source(str(path))
    packed = pickle.dumps(source)
    assert len(packed) < 1_000
    again = pickle.loads(packed)
    assert again.spec == source.spec
    assert np.array_equal(again.read("test").pixels, source.read("test").pixels)

    write_npz(path, images=149)
    assert f"the images of {path} have changed" in refusal(lambda: pickle.loads(packed).read("train"))


@pytest.mark.parametrize(
    "returned",
    [
        lambda a: tuple(a[name] for name in FOUR),
        lambda a: [a[name] for name in FOUR],
        lambda a: ((a["x_train"], a["y_train"]), (a["x_test"], a["y_test"])),
        lambda a: a,
        lambda a: a | {"y_train": a["y_train"][:, None].astype(np.uint8), "y_test": a["y_test"][:, None]},
    ],
)
def test_the_forms_in_which_arrays_may_come_are_one(tmp_path: Path, returned: Callable[[Arrays], Any]):
    np.savez(tmp_path / "own.npz", **arrays())
    (tmp_path / "own.pickle").write_bytes(pickle.dumps(returned(arrays())))
    (tmp_path / "own.py").write_text(
        "import pathlib, pickle\n"
        f"def images():\n    return pickle.loads(pathlib.Path({str(tmp_path / 'own.pickle')!r}).read_bytes())\n"
    )
    found = function_source(f"{tmp_path}/own.py:images").spec
    assert found.sha256 == npz_source(str(tmp_path / "own.npz")).spec.sha256


def test_a_function_may_return_a_source_whose_class_names_are_kept(tmp_path: Path):
    (tmp_path / "own.py").write_text(
        "from sweeper.data.fashion import find\ndef images():\n    return find('sample')\n"
    )  # fmt: skip
    spec = function_source(f"{tmp_path}/own.py:images").spec
    assert spec.classes[:2] == ("T-shirt/top", "Trouser")
    assert (spec.train_images, spec.test_images, spec.shape) == (7_000, 1_000, (28, 28, 1))


def test_grey_images_may_have_no_channel():
    found = decoded("own", arrays(x_train=grey(arrays()["x_train"]), x_test=grey(arrays()["x_test"])))
    assert found.train.pixels.shape == (40, 8, 10, 1)


def test_the_names_of_the_classes_are_kept():
    assert decoded("own", arrays(classes=np.array(["a", "b", "c", "d", "e"]))).classes == tuple("abcde")


FLOATS = arrays()["x_train"].astype(np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": FLOATS / 255},
         "x_train holds float32. Images must be uint8, 0 to 255. Convert them: x_train = "
         '(x_train * 255).round().astype("uint8")'),
        ({"x_train": FLOATS}, 'Convert them: x_train = x_train.round().astype("uint8")'),
        ({"x_test": arrays()["x_test"].astype(int)}, 'x_test holds int64. Images must be uint8, 0 to 255. Convert '
         'them: x_test = x_test.astype("uint8")'),
        ({"x_train": np.zeros((40, 80), np.uint8)}, "x_train has the shape (40, 80). Images must be (N, H, W)"),
        ({"x_test": np.zeros((0, 8, 10, 3), np.uint8)}, "x_test has the shape (0, 8, 10, 3)"),
        ({"x_train": np.zeros((40, 8, 10, 4), np.uint8)},
         "x_train has 4 channels, as its shape is (40, 8, 10, 4). Images must have 1 or 3."),
        ({"x_train": np.zeros((40, 3, 8, 10), np.uint8)}, "Convert them: x_train = x_train.transpose(0, 2, 3, 1)"),
        ({"x_train": np.zeros((40, 7, 10, 3), np.uint8)},
         "images of x_train are 7x10. Images must have 8 to 256 pixels per side."),
        ({"x_train": np.zeros((40, 8, 257, 3), np.uint8)}, "images of x_train are 8x257"),
        ({"x_test": np.zeros((20, 10, 8, 3), np.uint8)},
         "the images of x_train are 8x10x3, those of x_test 10x8x3. Give both the same shape."),
        ({"y_train": np.arange(39) % 4}, "y_train has 39 labels for 40 images"),
        ({"y_train": np.eye(4)[np.arange(40) % 4]}, "Convert it: y_train = y_train.argmax(1)"),
        ({"y_train": np.arange(40) % 4 / 2}, "y_train holds float64 of shape (40,). Labels must be integers"),
        ({"y_test": np.arange(20) % 4 - 1}, "y_test has the label -1. Labels must run from 0"),
        ({"y_test": np.arange(20) % 5}, "y_test has the label 4, but y_train has 4 classes"),
        ({"classes": ["a", "b", "c"]}, "y_train has the label 3, but classes has 3 classes"),
        ({"y_train": {}}, "y_train holds object"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused(change: Arrays, says: str):
    message = refusal(decoded, "own.npz", arrays(**change))
    assert message.startswith("own.npz: ")
    assert says in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_train": np.arange(40) % 3 + 1}, "class '0' (label 0) has no training image"),
        ({"y_train": np.minimum(np.arange(40), 4) % 5 % 4}, "class '1' (label 1) has 1 training image"),
        (
            {"y_train": np.zeros(40, int), "y_test": np.zeros(20, int)},
            "1 classes. Use 2 to 1,000 classes",
        ),
        ({"classes": ["a", "b", "c", "a"]}, "two classes have the name 'a'"),
        ({"x_train": np.full((40, 8, 10, 3), 7, np.uint8)}, "every training image is one uniform colour"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(tmp_path: Path, change: Arrays, says: str):
    np.savez(tmp_path / "own.npz", **arrays(**change))
    message = refusal(lambda: npz_source(str(tmp_path / "own.npz")).spec)
    assert message.startswith(f"{tmp_path}/own.npz: ")
    assert says in message


def test_a_channel_that_is_the_same_everywhere_can_be_trained_on(tmp_path: Path):
    pixels = arrays()["x_train"]
    pixels[..., 1] = 51
    np.savez(tmp_path / "own.npz", **arrays(x_train=pixels))
    spec = npz_source(str(tmp_path / "own.npz")).spec
    assert (spec.mean[1], spec.std[1]) == (0.2, 1.0)
    assert 0 < spec.std[0] < 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory"),
        (b"", "File is not a zip file"),
        (b"PK\x03\x04 but not more", "File is not a zip file"),
    ],
)
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes | None, says: str):
    path = tmp_path / "own.npz"
    if content is not None:
        path.write_bytes(content)
    message = refusal(read_npz, str(path))
    assert message.startswith(f"{path} cannot be read as an npz file ({says}")
    assert "numpy.savez" in message


def test_a_damaged_and_a_pickled_array_are_refused(tmp_path: Path):
    path = write_npz(tmp_path / "own.npz")
    damaged = bytearray(path.read_bytes())
    damaged[5_000] ^= 1
    path.write_bytes(damaged)
    assert "Bad CRC-32" in refusal(read_npz, str(path))

    np.savez(path, **arrays(y_train=np.array([{}] * 40)))
    assert "Object arrays cannot be loaded" in refusal(read_npz, str(path))


def test_missing_arrays_are_named(tmp_path: Path):
    np.savez(tmp_path / "own.npz", x_train=np.zeros(1), y_test=np.zeros(1))
    says = "lacks y_train, x_test. It must hold x_train, y_train, x_test, y_test."
    assert says in refusal(read_npz, str(tmp_path / "own.npz"))


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path: Path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FOUR:
            archive.writestr(f"{name}.npy", b"no array, which nobody reads")
        archive.getinfo("x_train.npy").file_size = 10**15  # as the table of contents then says
    message = refusal(read_npz, str(path))
    assert f"{path}: the images need 3000000.0 GB of memory, and " in message
    assert " GB are free. Use fewer or smaller images, or a machine with more memory." in message


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("def images():\n    return 1\n", DataError, "returned int. It must return an ImageSource, or x_train"),
        ("def images():\n    return 1, 2, 3\n", DataError, "returned tuple"),
        ("def images():\n    return 1 / 0\n", SweeperError, "failed in line 2 of {file}: ZeroDivisionError: division"),
        ("def images(path):\n    return path\n", SweeperError, "missing 1 required positional argument: 'path'"),
        ("import nothing_like_it\n", SweeperError, "failed in line 1 of {file}: ModuleNotFoundError"),
        ("images = 3\n", DataError, "{file} has no function 'images'"),
    ],
)  # fmt: skip
def test_a_function_that_fails_or_returns_no_images_is_refused(tmp_path: Path, code: str, error: Any, says: str):
    file = tmp_path / "own.py"
    file.write_text(code)
    assert says.format(file=file) in refusal(lambda: function_source(f"{file}:images").spec, error=error)


def test_a_function_that_is_nowhere_is_refused(tmp_path: Path):
    assert "no such file" in refusal(lambda: function_source(f"{tmp_path}/own.py:images").spec)
    assert "no module 'nowhere' is installed" in refusal(lambda: function_source("nowhere:images").spec)
