"""The names of data sets, as `--dataset` takes them."""

from __future__ import annotations

import difflib
from typing import Final

from sweeper.core.own_code import FUNCTION, absolute, absolute_path

FASHION: Final = ("fashion-mnist", "sample")
TORCHVISION: Final = ("mnist", "kmnist", "cifar10", "cifar100", "svhn")
NAMED: Final = (*FASHION, *TORCHVISION)
MIN_SIDE: Final = 8  # of an image, in pixels
MAX_SIDE: Final = 256
FOLDER: Final = "folder:"
NPZ: Final = ".npz"
FORMS: Final = f"{', '.join(NAMED)}, folder:DIR, FILE.npz, package.module:function or file.py:function"


def check_dataset(name: str) -> str:
    """Return `name` with absolute paths.

    Raises:
        ValueError: no data set can have this name.
    """
    if name in NAMED:
        return name
    if is_folder(name):
        return FOLDER + absolute_path(name.removeprefix(FOLDER))
    if name.endswith(NPZ) and name != NPZ:
        return absolute_path(name)
    if FUNCTION.fullmatch(name):
        return absolute(name)
    near = difflib.get_close_matches(name, NAMED, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"dataset={name[:200]!r}: no such data set.{hint} Use {FORMS}.")


def is_folder(name: str) -> bool:
    """Return True for a folder of pictures."""
    return name.startswith(FOLDER) and name != FOLDER
