"""FashionMNIST as uint8 tensors: find it, verify it, split it, batch it, augment it.

Images stay uint8 and in memory, `(N, 28, 28)`; a batch is indexed, augmented and normalised
when a step needs it. The 10,000 test images are read by `load_test` and by `split="blog"` alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from sweeper.config import RunConfig
from sweeper.errors import ConfigError, DataError, one_line

SIDE: Final = 28
CLASSES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN: Final = 0.28604  # of the 60,000 training images, pixels in [0, 1]
STD: Final = 0.35302
PADDING: Final = 2  # pixels an augmented crop may shift by
SPLIT_SEED: Final = 20190826  # the held-out images and the folds are the same for every run

DatasetName = Literal["fashion-mnist", "sample"]
Array = np.ndarray[Any, np.dtype[Any]]
SYSTEM_DIR: Final = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_DIR: Final = Path(__file__).parent / "sample"
GZIP_OVERHEAD: Final = 65_536  # bytes more than its content that a gzipped file may have


@dataclass(frozen=True)
class IdxFile:
    """One file of the data set, as it must be once decompressed."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the decompressed file: magic, one 32-bit integer a dimension, one byte a value."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The four files of a data set and the number of training images to hold out for validation."""

    name: DatasetName
    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile]
    holdout: int

    @property
    def digest(self) -> str:
        """One SHA-256 that stands for the whole data set."""
        return hashlib.sha256("".join(f.sha256 for f in self.train + self.test).encode()).hexdigest()


FULL: Final = Manifest(
    name="fashion-mnist",
    train=(
        IdxFile("train-images-idx3-ubyte", (60_000, SIDE, SIDE),
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        IdxFile("train-labels-idx1-ubyte", (60_000,),
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (10_000, SIDE, SIDE),
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        IdxFile("t10k-labels-idx1-ubyte", (10_000,),
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
    holdout=5_000,
)  # fmt: skip

SAMPLE: Final = Manifest(
    name="sample",
    train=(
        IdxFile("train-images-idx3-ubyte", (7_000, SIDE, SIDE),
                "cc4decef22bed64cf26dff259171f16f3810bc2190b7d7eafa3ec70df1bfed0f"),
        IdxFile("train-labels-idx1-ubyte", (7_000,),
                "6c8409ecd248109b53c1a56731857caea94082c7b11d37a5ccdb0e0987fafde8"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (1_000, SIDE, SIDE),
                "3364bf90388c50cdb6d8754288c094773163c153a35a7e5f0daca87bb02fa082"),
        IdxFile("t10k-labels-idx1-ubyte", (1_000,),
                "4514269c7768576d4f47f7a5c75e27eba60c29159194dc18ab52d04104432692"),
    ),
    holdout=1_000,
)  # fmt: skip

MANIFESTS: Final[dict[DatasetName, Manifest]] = {"fashion-mnist": FULL, "sample": SAMPLE}


@dataclass(frozen=True)
class Images:
    """Labelled images: `pixels` uint8 `(N, 28, 28)`, `labels` int64 `(N,)`."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])

    def first(self, size: int) -> Images:
        """The first `size` images."""
        return Images(self.pixels[:size], self.labels[:size])

    def to(self, device: torch.device) -> Images:
        """The same images on `device`: these, if they are there."""
        there = self.pixels.to(device), self.labels.to(device)
        return self if there[0] is self.pixels else Images(*there)

    def joined(self, others: Images) -> Images:
        """These images, then the others."""
        return Images(torch.cat([self.pixels, others.pixels]), torch.cat([self.labels, others.labels]))

    @cached_property
    def padded(self) -> Tensor:
        """Pixels with a border of `PADDING` zeros, uint8 `(N, 32, 32)`."""
        return torch.nn.functional.pad(self.pixels, (PADDING,) * 4)


@dataclass(frozen=True)
class Data:
    """What a run may see: the images it trains on, and those that judge each epoch."""

    train: Images
    val: Images

    def share_memory(self) -> Data:
        """Move the tensors to shared memory, so that worker processes read one copy."""
        for images in (self.train, self.val):
            images.pixels.share_memory_()
            images.labels.share_memory_()
        return self

    def arrays(self) -> list[Array]:
        """The tensors as arrays of the same memory, in the order in which `from_arrays` takes them."""
        return [t.numpy() for images in (self.train, self.val) for t in (images.pixels, images.labels)]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array]) -> Data:
        """The data of `arrays`, of the same memory; they may be read-only, as nothing is ever written to data."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            pixels, labels, *judging = (torch.from_numpy(array) for array in arrays)
        return cls(Images(pixels, labels), Images(*judging))


# --- finding and reading the files -------------------------------------------------------------


def locate(data_dir: Path | None = None) -> Path | None:
    """The first folder that holds the four files of FashionMNIST, raw or gzipped, or None.

    Searched in order: `data_dir` or SWEEPER_DATA_DIR (which must then hold them), the cache
    folder, Debian's package dataset-fashion-mnist.

    Raises:
        DataError: the folder that was asked for does not hold the files.
    """
    asked = data_dir or (Path(os.environ["SWEEPER_DATA_DIR"]) if os.environ.get("SWEEPER_DATA_DIR") else None)
    if asked is not None:
        return _require(asked)
    return next((folder for folder in (cache_dir(), SYSTEM_DIR) if _is_complete(folder)), None)


def cache_dir() -> Path:
    """Where a downloaded data set is kept."""
    from platformdirs import user_cache_path

    return user_cache_path("sweeper") / "fashion-mnist"


def resolve(name: str, data_dir: Path | None = None) -> tuple[Manifest, Path]:
    """The data set to use and its folder; `auto` takes FashionMNIST where it can be had, else the sample.

    Raises:
        DataError: FashionMNIST was asked for and can be neither found nor downloaded.
    """
    if name == "sample":
        return SAMPLE, SAMPLE_DIR
    folder = locate(data_dir)
    if folder is not None:
        return FULL, folder
    try:
        return FULL, download(cache_dir())
    except DataError:
        if name == "auto":
            return SAMPLE, SAMPLE_DIR
        raise


def download(folder: Path) -> Path:
    """Download FashionMNIST through torchvision into `folder`, verify it, and return the folder.

    Raises:
        DataError: no mirror answered within 5 seconds, or what came is not FashionMNIST.
    """
    import socket
    import tempfile
    from http.client import HTTPException

    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    _check_reachable(FashionMNIST.mirrors[0])
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            for file in FULL.train + FULL.test:
                download_url(FashionMNIST.mirrors[0] + file.name + ".gz", part)
                read_idx(Path(part), file)
            folder.mkdir(exist_ok=True)
            for file in FULL.train + FULL.test:
                (Path(part) / f"{file.name}.gz").replace(folder / f"{file.name}.gz")
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"FashionMNIST was not found, and could not be downloaded ({one_line(error, 200)}); name its folder with "
            "--data-dir, install Debian's package dataset-fashion-mnist, or use --dataset sample"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return folder


def _check_reachable(url: str) -> None:
    """Open a connection to the host of `url`; looking up a name has no timeout of its own, so a thread waits for it.

    Raises:
        DataError: nobody answered within 4 seconds.
    """
    import socket
    import threading
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, 80), timeout=3):
            connected.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(4)
    if not connected.is_set():
        raise DataError(
            f"FashionMNIST was not found, and {host} cannot be reached to download it; name its folder with "
            "--data-dir, install Debian's package dataset-fashion-mnist, or use --dataset sample"
        )


def read_idx(folder: Path, file: IdxFile) -> Tensor:
    """Read one idx file, raw or gzipped, once its length, header and SHA-256 have been checked.

    Returns:
        uint8, of `file.shape`.

    Raises:
        DataError: the file is missing, unreadable, truncated, too long, or not the expected one.
    """
    path = next((p for p in (folder / file.name, folder / f"{file.name}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / file.name}: no such file, raw or .gz")
    try:
        content = _content(path, file.size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error, 200)}") from None
    header = struct.pack(f">HBB{len(file.shape)}I", 0, 8, len(file.shape), *file.shape)
    if content[: len(header)] != header:
        raise DataError(f"{path}: the header is not that of {'x'.join(map(str, file.shape))} bytes in idx format")
    if len(content) != file.size:
        found = "more" if len(content) > file.size else len(content)
        raise DataError(f"{path}: {found} bytes once decompressed; {file.name} has {file.size}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{path}: the SHA-256 is not that of {file.name}; get the file again")
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return values[len(header) :].clone().reshape(file.shape)


def _content(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file, decompressed if it is gzipped: never more, whatever it claims.

    Raises:
        EOFError, zlib.error: it is not one whole gzip stream, or one that no `most` bytes are compressed to.
    """
    packed = path.suffix == ".gz"
    with path.open("rb") as stream:
        read = stream.read(most + GZIP_OVERHEAD if packed else most)
    if not packed:
        return read
    # Not the module gzip: it reads names, comments and empty streams a byte or a stream at a time.
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    content = gzip.decompress(read, most)
    if len(content) < most and not gzip.eof:
        raise EOFError("the gzip stream has no end")
    if gzip.unused_data:
        raise EOFError("something follows the gzip stream")
    return content


def _missing(folder: Path) -> list[str]:
    files = FULL.train + FULL.test
    return [f.name for f in files if not ((folder / f.name).is_file() or (folder / f"{f.name}.gz").is_file())]


def _is_complete(folder: Path) -> bool:
    try:
        return not _missing(folder)
    except OSError:  # not ours to read
        return False


def _require(folder: Path) -> Path:
    try:
        is_folder, missing = folder.is_dir(), _missing(folder)
    except OSError as error:
        raise DataError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    if not is_folder:
        raise DataError(f"{folder}: not a folder; --data-dir names the folder of the four FashionMNIST files")
    if missing:
        raise DataError(f"{folder}: holds no {' and no '.join(missing)}, raw or .gz")
    return folder


def _load(files: tuple[IdxFile, IdxFile], folder: Path) -> Images:
    pixels, labels = (read_idx(folder, file) for file in files)
    if int(labels.max()) >= len(CLASSES):
        raise DataError(f"{folder / files[1].name}: label {int(labels.max())}; the labels are 0 to 9")
    return Images(pixels, labels.long())


# --- splits ------------------------------------------------------------------------------------


def load(config: RunConfig, folder: Path) -> list[Data]:
    """The data of a run: one `Data`, or one for each fold when `config.split` is folds.

    Only `split="blog"` reads the test images, and calls them validation, as the study does.

    Raises:
        ConfigError: a batch, or `config.train_images`, is more than the images there are to train on.
        DataError: the files cannot be read, or are not what they should be.
    """
    manifest = MANIFESTS[config.dataset]
    train = _load(manifest.train, folder)
    if config.split == "blog":
        parts = [Data(train, _load(manifest.test, folder))]
    elif config.split == "holdout":
        parts = [holdout(train, manifest.holdout)]
    else:
        parts = [fold(train, k, config.folds) for k in range(config.folds)]
    return [check_batch(config, _limited(config, part)) for part in parts]


def load_test(config: RunConfig, folder: Path) -> Data:
    """All training images, and the test images as `val`: for the one evaluation that ends a sweep."""
    manifest = MANIFESTS[config.dataset]
    return Data(_load(manifest.train, folder), _load(manifest.test, folder))


def holdout(images: Images, size: int) -> Data:
    """Hold out `size` images, equally many of each class, always the same ones."""
    order = _stratified_order(images.labels)
    return Data(images[order[size:].sort().values], images[order[:size].sort().values])


def fold(images: Images, k: int, folds: int) -> Data:
    """Fold `k` (from 0) of `folds`: every image is validated in one fold, classes in equal shares."""
    order = _stratified_order(images.labels)
    part = _rank_in_class(images.labels[order]) % folds == k
    return Data(images[order[~part].sort().values], images[order[part].sort().values])


def subset(images: Images, size: int) -> Images:
    """`size` of the images, classes in equal shares, always the same ones; a smaller subset lies in a larger one."""
    order = _stratified_order(images.labels)
    return images[order[:size].sort().values]


def _limited(config: RunConfig, data: Data) -> Data:
    """`data` with the number of training images that `config` asks for.

    Raises:
        ConfigError: there are not that many.
    """
    if not config.train_images:
        return data
    if config.train_images > len(data.train):
        raise ConfigError(
            f"train_images={config.train_images}: split={config.split} of {config.dataset} leaves {len(data.train)} to "
            "train on; use fewer, or 0 for all"
        )
    return Data(subset(data.train, config.train_images), data.val)


def _stratified_order(labels: Tensor) -> Tensor:
    """A fixed shuffle in which any run of consecutive images holds the classes in equal shares."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    return by_class[torch.argsort(_rank_in_class(labels[by_class]), stable=True)]


def _rank_in_class(labels: Tensor) -> Tensor:
    """For each image, how many of its class come before it."""
    rank = torch.empty_like(labels)
    for label in labels.unique():
        of_class = labels == label
        rank[of_class] = torch.arange(int(of_class.sum()))
    return rank


def check_batch(config: RunConfig, data: Data) -> Data:
    """Return `data` if a batch fits into it.

    Raises:
        ConfigError: the batch size is larger than the training set.
    """
    if config.batch_size > len(data.train):
        raise ConfigError(
            f"batch_size={config.batch_size}: larger than the {len(data.train)} training images of {config.dataset}"
        )
    return data


# --- batches and augmentation --------------------------------------------------------------------


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Sizes of the batches of one epoch; a last batch of one image is merged into the one before it."""
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + ([rest] if rest else [])
    if rest == 1 and full and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


@dataclass(frozen=True)
class Augmentation:
    """What happens to each image of an epoch: drawn for all of them at once.

    `dy`, `dx` int64 `(N,)`: the crop's corner in the padded image, 0 to 2 x PADDING.
    `flip` bool `(N,)`. `erase` int64 `(N, 4)`: top, left, height, width; height 0 erases nothing.
    """

    dy: Tensor
    dx: Tensor
    flip: Tensor
    erase: Tensor | None

    @classmethod
    def draw(cls, images: int, erase: bool, generator: torch.Generator) -> Augmentation:
        """Draw the shifts, mirrors and erased rectangles of `images` images."""
        dy = torch.randint(0, 2 * PADDING + 1, (images,), generator=generator)
        dx = torch.randint(0, 2 * PADDING + 1, (images,), generator=generator)
        flip = torch.rand(images, generator=generator) < 0.5
        return cls(dy, dx, flip, _draw_rectangles(images, generator) if erase else None)

    @classmethod
    def nothing(cls, images: int) -> Augmentation:
        """The draws that leave each image as it is."""
        middle = torch.full((images,), PADDING)
        return cls(middle, middle, torch.zeros(images, dtype=torch.bool), None)

    @classmethod
    def joined(cls, parts: Sequence[Augmentation]) -> Augmentation:
        """The draws of `parts`, one after the other."""
        erase = None
        if any(part.erase is not None for part in parts):
            none = torch.zeros(len(parts[0].dy), 4, dtype=torch.int64)
            erase = torch.cat([none if part.erase is None else part.erase for part in parts])
        dy, dx, flip = (torch.cat([getattr(part, name) for part in parts]) for name in ("dy", "dx", "flip"))
        return cls(dy, dx, flip, erase)

    def to(self, device: torch.device) -> Augmentation:
        """The same draws on `device`."""
        erase = None if self.erase is None else send(self.erase, device)
        return Augmentation(send(self.dy, device), send(self.dx, device), send(self.flip, device), erase)

    def apply(self, images: Images, index: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Augment the images of `index` `(B,)`, vectorised over the batch: uint8 `(B, 28, 28)`.

        Which draw is whose: `drawn` `(B,)`, or else `index`.
        """
        at = index if drawn is None else drawn
        windows = images.padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # a view, (N, 5, 5, 28, 28)
        batch = windows[index, self.dy[at], self.dx[at]]  # (B, 28, 28)
        batch = torch.where(self.flip[at, None, None], batch.flip(2), batch)
        if self.erase is None:
            return batch
        top, left, height, width = self.erase[at, :, None].unbind(1)  # each (B, 1)
        pixel = torch.arange(SIDE, device=batch.device)
        rows = (pixel >= top) & (pixel < top + height)  # (B, 28)
        columns = (pixel >= left) & (pixel < left + width)
        return batch.masked_fill(rows[:, :, None] & columns[:, None, :], 0)


def _draw_rectangles(images: int, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896): half of the images lose a rectangle of
    2-33 % of their area with a side ratio between 0.3 and 3.3, clamped to the image."""
    chance, area, ratio, top, left = torch.rand(5, images, generator=generator).unbind(0)
    area = (0.02 + 0.31 * area) * SIDE**2
    ratio = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * ratio)
    height = (area * ratio).sqrt().round().clamp(1, SIDE)
    width = (area / ratio).sqrt().round().clamp(1, SIDE)
    corner = ((SIDE + 1 - height) * top).floor(), ((SIDE + 1 - width) * left).floor()
    height = torch.where(chance < 0.5, height, torch.zeros_like(height))
    return torch.stack([*corner, height, width], dim=1).long()


def batches(images: Images, config: RunConfig, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a fresh random order: uint8 `(B, 28, 28)` and labels `(B,)`, on the images' device.

    Order and augmentation are drawn from `generator`, on the CPU, before the first batch.
    """
    device = images.pixels.device
    order, augmentation = _draw_epoch(len(images), config, generator)
    order, augmentation = order.to(device), augmentation and augmentation.to(device)
    for index in order.split(batch_sizes(len(images), config.batch_size)):
        pixels = augmentation.apply(images, index) if augmentation else images.pixels[index]
        yield pixels, images.labels[index]


def epoch_images(images: Images, config: RunConfig, generator: torch.Generator) -> Images:
    """What the `batches` of an epoch are cut from: all images in its order, augmented, on their device."""
    device = images.pixels.device
    order, augmentation = _draw_epoch(len(images), config, generator)
    order = send(order, device)
    pixels = augmentation.to(device).apply(images, order) if augmentation else images.pixels[order]
    return Images(pixels, images.labels[order])


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on `device`, which fetches them when it comes to that: nobody waits for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def stacked_batches(
    images: Images, configs: Sequence[RunConfig], generators: Iterable[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The `batches` of K configurations with one batch size, each in an order of its own, all in the same few
    operations: uint8 `(B, 28, 28, K)` and labels `(K, B)`, on the images' device."""
    device, count, size = images.pixels.device, len(configs), len(images)
    drawn = [_draw_epoch(size, config, generator) for config, generator in zip(configs, generators, strict=True)]
    orders = torch.stack([order for order, _ in drawn]).to(device)  # (K, N)
    augmentation = None
    if any(part for _, part in drawn):
        augmentation = Augmentation.joined([part or Augmentation.nothing(size) for _, part in drawn]).to(device)
    first = size * torch.arange(count, device=device)[:, None]  # of the draws of each configuration
    for index in orders.split(batch_sizes(size, configs[0].batch_size), dim=1):  # (K, B)
        flat = index.flatten()
        pixels = augmentation.apply(images, flat, (first + index).flatten()) if augmentation else images.pixels[flat]
        yield pixels.view(*index.shape, SIDE, SIDE).permute(1, 2, 3, 0).contiguous(), images.labels[index]


def _draw_epoch(images: int, config: RunConfig, generator: torch.Generator) -> tuple[Tensor, Augmentation | None]:
    """The order of an epoch `(N,)`, and what happens to each image in it, or None for nothing."""
    order = torch.randperm(images, generator=generator)
    if config.augmentation == "none":
        return order, None
    return order, Augmentation.draw(images, config.augmentation == "crop-flip-erase", generator)


def normalize(pixels: Tensor) -> Tensor:
    """uint8 `(B, 28, 28)` to float32 `(B, 1, 28, 28)`, standardised by the training images' mean and std."""
    return standardize(pixels).unsqueeze(1)


def standardize(pixels: Tensor) -> Tensor:
    """uint8 to float32 of the same shape, by the mean and standard deviation of the training images."""
    return pixels.float().mul_(1 / (255 * STD)).sub_(MEAN / STD)
