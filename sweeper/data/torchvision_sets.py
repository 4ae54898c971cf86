"""The data sets that torchvision downloads and verifies. Reading them imports torchvision, and with it torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from sweeper.core.errors import DataError, one_line
from sweeper.data.arrays import FOUR, decoded
from sweeper.data.download import downloading
from sweeper.data.own import Decoded, OwnSource

KINDS: Final[Mapping[str, str]] = {  # torchvision's classes
    "mnist": "MNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN",
}  # fmt: skip
PARTS: Final = ("train", "test")


def torchvision_source(name: str, data_dir: Path | None) -> OwnSource:
    """Return the source of a data set. Torchvision's root is `data_dir`, else SWEEPER_DATA_DIR, else the cache.

    A data set that is missing from the cache is downloaded.

    Raises:
        DataError: it can be neither found nor downloaded.
    """
    given = data_dir or os.environ.get("SWEEPER_DATA_DIR")
    root = Path(given) if given else _cached(name)
    return OwnSource(name, str(root.absolute()), partial(read_named, name, str(root.absolute())))


def read_named(name: str, root: str) -> Decoded:
    """Read a data set by its name from torchvision's `root`.

    Raises:
        DataError: it is missing or damaged, or its checksums differ.
    """
    import torchvision.datasets

    return read_set(name, getattr(torchvision.datasets, KINDS[name]), root)


def read_set(name: str, kind: Any, root: str) -> Decoded:
    """Read a data set of torchvision's class `kind`, and verify it by torchvision's MD5 sums.

    Raises:
        DataError: it is missing or damaged, or its checksums differ.
    """
    try:
        train, test = _parts(kind, root)
        _verify(kind, train)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = one_line(error, 200).partition(". You can use download=True")[0]
        raise DataError(
            f"{root} does not hold {name} in torchvision's layout ({reason}). Name torchvision's root with "
            "--data-dir, or leave --data-dir and SWEEPER_DATA_DIR out to download it."
        ) from None
    arrays = (*_arrays(train), *_arrays(test))
    classes = getattr(train, "classes", range(10))  # SVHN has digits
    return decoded(name, {**dict(zip(FOUR, arrays, strict=True)), "classes": list(classes)})


def _parts(kind: Any, root: str, **options: Any) -> list[Any]:
    """Return torchvision's training and test part."""
    named = hasattr(kind, "split_list")  # as in SVHN
    return [kind(root, **({"split": part} if named else {"train": part == "train"}), **options) for part in PARTS]


def _verify(kind: Any, found: Any) -> None:
    """Verify the archives of MNIST and KMNIST, which torchvision verifies only after a download."""
    from torchvision.datasets.utils import check_integrity

    for file, md5 in getattr(kind, "resources", ()):
        path = Path(found.raw_folder) / file
        if not check_integrity(str(path), md5):
            raise RuntimeError(f"{path} is missing or has changed")


def _arrays(part: Any) -> tuple[Any, Any]:
    """Return pixels `(N, H, W)` or `(N, H, W, C)`, and labels."""
    pixels = np.asarray(part.data)
    channels_first = pixels.ndim == 4 and pixels.shape[1] == 3
    labels = part.targets if hasattr(part, "targets") else part.labels
    return pixels.transpose(0, 2, 3, 1) if channels_first else pixels, np.asarray(labels)


def _cached(name: str) -> Path:
    """Return the cache folder of a data set, and download the data set if the folder is missing.

    Raises:
        DataError: it cannot be downloaded, or the folder cannot be written.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("sweeper") / name
    if folder.is_dir():
        return folder
    with downloading(name, folder, "Name torchvision's root with --data-dir.") as part:
        import torchvision.datasets

        root = part / name
        _parts(getattr(torchvision.datasets, KINDS[name]), str(root), download=True)
        root.rename(folder)
    return folder
