"""Find the images of a data set by its name."""

from __future__ import annotations

from pathlib import Path

from sweeper.core.dataset import FASHION, NPZ, TORCHVISION, is_folder
from sweeper.core.environment import Say
from sweeper.data import fashion
from sweeper.data.arrays import function_source, npz_source
from sweeper.data.images import ImageSource
from sweeper.data.own import OwnSource


def find(
    name: str, data_dir: Path | None = None, image_size: int = 0, say: Say = lambda _: None
) -> ImageSource:  # fmt: skip
    """Find the data set `name`, a configuration's `dataset` or `auto`, and read it if it is not FashionMNIST.

    Args:
        name: of the data set.
        data_dir: the folder of FashionMNIST, or torchvision's root.
        image_size: side to which the pictures of a folder are resized; 0 for their most frequent size.
        say: prints remarks on conversions.

    Raises:
        DataError: the data set is missing, or cannot be trained on.
        SweeperError: the user's function failed.
    """
    if name in (*FASHION, "auto"):
        return fashion.find(name, data_dir)
    source = _own(name, data_dir, image_size)
    for remark in source.remarks:
        say(f"{source.place}: {remark}")
    return source


def _own(name: str, data_dir: Path | None, image_size: int) -> OwnSource:
    if name in TORCHVISION:
        from sweeper.data.torchvision_sets import torchvision_source

        return torchvision_source(name, data_dir)
    if is_folder(name):
        from sweeper.data.folders import folder_source  # and with it Pillow

        return folder_source(name, image_size)
    return npz_source(name) if name.endswith(NPZ) else function_source(name)
