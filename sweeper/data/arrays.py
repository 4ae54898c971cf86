"""Images as four arrays, `x_train`, `y_train`, `x_test` and `y_test`: in an npz file, or from a function."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from sweeper.core.dataset import MAX_SIDE, MIN_SIDE
from sweeper.core.errors import DataError, UsageError, one_line
from sweeper.core.images import Array
from sweeper.core.own_code import explained, load_function
from sweeper.data.images import Labelled
from sweeper.data.own import COPIES, Decoded, OwnSource, check_room

FOUR: Final = ("x_train", "y_train", "x_test", "y_test")
CLASSES: Final = "classes"  # a fifth array, which need not be there: the names of the classes


def npz_source(path: str) -> OwnSource:
    """Return the source of an npz file."""
    return OwnSource(path, path, partial(read_npz, path))


def function_source(name: str) -> OwnSource:
    """Return the source of a function `package.module:function` or `file.py:function`."""
    return OwnSource(name, name, partial(call, name))


def read_npz(path: str) -> Decoded:
    """Read the arrays of an npz file.

    Raises:
        DataError: the file is missing, damaged or too large, or the arrays are not images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
        check_room(path, COPIES * sum(sizes.get(name, 0) for name in FOUR))
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in (*FOUR, CLASSES) if name in sizes}
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(error, 200)
        raise DataError(
            f"{path} cannot be read as an npz file ({reason}). Write it with numpy.savez and the arrays "
            f"{', '.join(FOUR)}."
        ) from None
    return decoded(path, found)


def call(name: str) -> Decoded:
    """Call the user's function and return its images.

    The function returns an `ImageSource`, the four arrays in order, Keras' two pairs of them, or a mapping by name.

    Raises:
        DataError: there is no such function, or it does not return images.
        SweeperError: the function failed; one line with the file and the line.
    """
    try:
        function = load_function(name)
    except UsageError as error:
        raise DataError(str(error)) from None
    with explained(name):
        returned = function()
        if hasattr(returned, "read") and hasattr(returned, "spec"):
            train, test = returned.read("train"), returned.read("test")
            returned = (train.pixels, train.labels, test.pixels, test.labels, returned.spec.classes)
    return decoded(name, _by_name(name, returned))


def decoded(name: str, found: Mapping[str, Any]) -> Decoded:
    """Check arrays and return them as images: pixels uint8 `(N, H, W[, C])`, labels integers `(N,)` or `(N, 1)`.

    Raises:
        DataError: an array is missing or has a wrong type or shape, or a label is out of range.
    """
    if missing := [each for each in FOUR if each not in found]:
        raise DataError(f"{name} lacks {', '.join(missing)}. It must hold {', '.join(FOUR)}.")
    arrays = {each: _array(name, each, found[each]) for each in FOUR}
    train, test = (
        Labelled(_pixels(name, x, arrays[x]), _labels(name, y, arrays[y], len(arrays[x])))
        for x, y in (FOUR[:2], FOUR[2:])
    )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(
            f"{name}: the images of x_train are {_shape(train.pixels)}, those of x_test {_shape(test.pixels)}. "
            "Give both the same shape."
        )
    names = _array(name, CLASSES, found[CLASSES]).ravel().tolist() if CLASSES in found else None
    classes = tuple(map(str, names if names is not None else range(int(train.labels.max()) + 1)))
    for part, labels in (("y_train", train.labels), ("y_test", test.labels)):
        if labels.max() >= len(classes):
            raise DataError(
                f"{name}: {part} has the label {labels.max()}, but {'y_train' if names is None else CLASSES} has "
                f"{len(classes)} classes. Labels must run from 0 to the number of classes - 1."
            )
    return Decoded(train, test, classes)


def _by_name(name: str, returned: Any) -> Mapping[str, Any]:
    """Return a function's return value as a mapping of arrays by name."""
    if isinstance(returned, Mapping):
        return returned
    if isinstance(returned, tuple | list):
        if len(returned) == 2 and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in returned):
            returned = [*returned[0], *returned[1]]
        if len(returned) in (4, 5):
            return dict(zip((*FOUR, CLASSES), returned, strict=False))
    raise DataError(
        f"{name} returned {type(returned).__name__}. It must return an ImageSource, or {', '.join(FOUR)} in this order."
    )


def _array(name: str, which: str, values: Any) -> Array:
    try:
        return np.asarray(values)
    except Exception as error:  # noqa: BLE001 - of any library's array
        raise DataError(f"{name}: {which} is not an array ({one_line(error, 200)}). Return NumPy arrays.") from None


def _pixels(name: str, which: str, array: Array) -> Array:
    """Return pixels as uint8 `(N, H, W, C)`."""
    if array.ndim not in (3, 4) or not array.size:
        raise DataError(f"{name}: {which} has the shape {array.shape}. Images must be (N, H, W) or (N, H, W, C).")
    if array.dtype != np.uint8:
        raise DataError(
            f"{name}: {which} holds {array.dtype}. Images must be uint8, 0 to 255. Convert them: {which} = "
            f"{_to_uint8(which, array)}"
        )
    pixels = array[..., None] if array.ndim == 3 else array
    height, width, channels = pixels.shape[1:]
    if channels not in (1, 3):
        swap = f" Convert them: {which} = {which}.transpose(0, 2, 3, 1)" if height in (1, 3) else ""
        raise DataError(
            f"{name}: {which} has {channels} channels, as its shape is {array.shape}. Images must have 1 or 3.{swap}"
        )
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise DataError(
            f"{name}: the images of {which} are {height}x{width}. Images must have {MIN_SIDE} to {MAX_SIDE} pixels per "
            "side."
        )
    return np.ascontiguousarray(pixels)


def _to_uint8(which: str, array: Array) -> str:
    """Return the expression that converts an array of another type."""
    if array.dtype.kind != "f":
        return f'{which}.astype("uint8")'
    scaled = f"({which} * 255)" if array.max() <= 1 else which
    return f'{scaled}.round().astype("uint8")'


def _labels(name: str, which: str, array: Array, images: int) -> Array:
    """Return labels as int64 `(N,)`."""
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim == 2:
        raise DataError(f"{name}: {which} has the shape {array.shape}. Convert it: {which} = {which}.argmax(1)")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: {which} holds {array.dtype} of shape {array.shape}. Labels must be integers, one per image."
        )
    if len(labels) != images:
        raise DataError(f"{name}: {which} has {len(labels)} labels for {images} images. Each image must have one.")
    if labels.min() < 0:
        raise DataError(
            f"{name}: {which} has the label {labels.min()}. Labels must run from 0 to the number of classes - 1."
        )
    return np.ascontiguousarray(labels, np.int64)


def _shape(pixels: Array) -> str:
    return "x".join(map(str, pixels.shape[1:]))
