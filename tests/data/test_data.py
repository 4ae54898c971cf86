from __future__ import annotations

import gzip
import hashlib
import http.client
import multiprocessing as mp
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from docs.cut_sample import main
from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError, DataError
from sweeper.core.images import MEAN, SIDE, STD
from sweeper.data import fashion as dataset
from sweeper.data import splits
from sweeper.data.fashion import (
    MANIFESTS,
    SAMPLE,
    SAMPLE_DIR,
    SYSTEM_DIR,
    IdxFile,
    Manifest,
    locate,
    read_idx,
    resolve,
)
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import SPLIT_SEED, Labelled, Split, shuffle
from sweeper.training.batches import Augmentation, batch_sizes, batches
from sweeper.training.images import PADDING, Data, Images, load, load_test, normalize
from tests.support.sharing import change_and_read

SMALL = RunConfig(batch_size=8, placement="none")  # fits the 30 training images that `little` leaves


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(images: int) -> Images:
    """Images whose first two pixels hold their number, their classes in an irregular order."""
    pixels = torch.zeros(images, SIDE, SIDE, dtype=torch.uint8)
    pixels[:, 0, 0] = torch.arange(images) // 256
    pixels[:, 0, 1] = torch.arange(images) % 256
    classes = torch.arange(images) % 10
    return Images(pixels, classes[torch.randperm(images, generator=seeded(0))])


def labelled(images: Images) -> Labelled:
    return Data(images, images).arrays().train


def holdout(images: Images, size: int) -> Data:
    return Data.from_arrays(splits.holdout(labelled(images), size))


def fold(images: Images, k: int, folds: int) -> Data:
    return Data.from_arrays(splits.fold(labelled(images), k, folds))


def subset(images: Images, size: int) -> Images:
    part = splits.subset(labelled(images), size)
    return Data.from_arrays(Split(part, part)).train


def numbers(pixels: Tensor) -> Tensor:
    return pixels[:, 0, 0].int() * 256 + pixels[:, 0, 1].int()


def refusal(function: Callable[..., Any], *args: Any, error: type[Exception] = DataError) -> str:
    """The message of the error that the call raises; always one line."""
    with pytest.raises(error) as caught:
        function(*args)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- a data set of 40 + 20 images in place of the 70,000 -----------------------------------------


def idx(values: Tensor) -> bytes:
    return struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape) + values.numpy().tobytes()


def contents(images: int, seed: int) -> tuple[bytes, bytes]:
    """Random images, and labels that hold each class equally often, as idx."""
    pixels = torch.randint(0, 256, (images, SIDE, SIDE), generator=seeded(seed), dtype=torch.uint8)
    return idx(pixels), idx((torch.arange(images) % 10).to(torch.uint8))


def described(name: str, content: bytes) -> IdxFile:
    """The manifest's entry for `content`."""
    dims = content[3]
    return IdxFile(name, struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims]), hashlib.sha256(content).hexdigest())


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The four files, decompressed, of a little data set that now stands for FashionMNIST."""
    names = [file.name for file in dataset.FULL.train + dataset.FULL.test]
    files = dict(zip(names, contents(40, 1) + contents(20, 2), strict=True))
    declare(files, monkeypatch)
    return files


def declare(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c, d = (described(name, content) for name, content in files.items())
    manifest = Manifest("fashion-mnist", (a, b), (c, d), holdout=10)
    monkeypatch.setattr(dataset, "FULL", manifest)
    monkeypatch.setitem(MANIFESTS, "fashion-mnist", manifest)


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


@pytest.fixture
def folder(little: dict[str, bytes], tmp_path: Path) -> Path:
    """A folder of the four files, gzipped."""
    return write(little, tmp_path / "little")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither variable, cache nor system package holds the data set; the folder they would be in."""
    monkeypatch.delenv("SWEEPER_DATA_DIR", raising=False)
    monkeypatch.setattr(dataset, "cache_dir", lambda: tmp_path / "user" / "cache")
    monkeypatch.setattr(dataset, "SYSTEM_DIR", tmp_path / "system")
    return tmp_path


# --- the embedded sample ---------------------------------------------------------------------------


def test_the_sample_holds_6000_1000_and_1000_images_each_class_equally(sample: Data):
    test = load_test(RunConfig(dataset="sample"), SAMPLE_DIR).val
    for images, each in ((sample.train, 600), (sample.val, 100), (test, 100)):
        assert images.pixels.shape == (10 * each, SIDE, SIDE)
        assert images.pixels.dtype == torch.uint8
        assert images.labels.dtype == torch.int64
        assert torch.bincount(images.labels).tolist() == [each] * 10


def test_the_sample_is_smaller_than_5_mb():
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir() if path.is_file()) < 5_000_000


def test_the_sample_is_found_in_the_package():
    assert resolve("sample") == (SAMPLE, SAMPLE_DIR)


@pytest.mark.skipif(not SYSTEM_DIR.is_dir(), reason=f"Debian's package dataset-fashion-mnist is not in {SYSTEM_DIR}")
def test_the_cut_script_reproduces_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(SYSTEM_DIR, tmp_path)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for file in SAMPLE.train + SAMPLE.test:
        shipped = gzip.decompress((SAMPLE_DIR / f"{file.name}.gz").read_bytes())
        assert gzip.decompress((tmp_path / f"{file.name}.gz").read_bytes()) == shipped
        assert printed[file.name] == file.sha256


# --- where the files are looked for ------------------------------------------------------------------


def test_locate_takes_the_named_folder_then_the_variable_then_the_cache_then_the_system(
    little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    assert locate() is None
    system = write(little, nowhere / "system")
    assert locate() == system
    cache = write(little, nowhere / "user" / "cache")
    assert locate() == cache
    variable = write(little, nowhere / "variable")
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(variable))
    assert locate() == variable
    named = write(little, nowhere / "named")
    assert locate(named) == named


def test_an_empty_variable_is_no_folder(little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWEEPER_DATA_DIR", "")
    assert locate() is None


@pytest.mark.parametrize("how", ["named", "variable"])
def test_a_folder_that_was_asked_for_must_hold_the_files(
    folder: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    write({"t10k-labels-idx1-ubyte": b""}, nowhere / "asked")
    write({"train-labels-idx1-ubyte": b""}, nowhere / "asked")
    monkeypatch.setattr(dataset, "SYSTEM_DIR", folder)  # holds them, and was not asked for
    if how == "variable":
        monkeypatch.setenv("SWEEPER_DATA_DIR", str(nowhere / "asked"))
    message = refusal(locate, *([nowhere / "asked"] if how == "named" else []))
    assert "holds no train-images-idx3-ubyte and no t10k-images-idx3-ubyte, raw or .gz" in message


@pytest.mark.parametrize("name", ["missing", "a file", "n" * 300], ids=["missing", "a file", "too long"])
@pytest.mark.parametrize("dataset", ["fashion-mnist", "auto"])
def test_a_named_folder_that_is_none_is_refused(nowhere: Path, name: str, dataset: str):
    (nowhere / "a file").touch()
    assert f"{name}: not a folder" in refusal(resolve, dataset, nowhere / name)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read what root's folders forbid."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_that_may_not_be_read_is_refused(folder: Path):
    folder.chmod(0)
    try:
        with unprivileged():
            message = refusal(locate, folder)
    finally:
        folder.chmod(0o700)
    assert str(folder) in message


@pytest.mark.parametrize("raw", [True, False, None], ids=["raw", "gz", "both kinds"])
def test_raw_and_gzipped_files_are_read_alike(little: dict[str, bytes], folder: Path, raw: bool | None):
    expected = torch.frombuffer(bytearray(little["t10k-images-idx3-ubyte"][16:]), dtype=torch.uint8)
    for name, content in little.items():
        if raw or (raw is None and "images" in name):
            (folder / f"{name}.gz").unlink()
            (folder / name).write_bytes(content)
    assert locate(folder) == folder
    test = load_test(SMALL, folder).val
    assert torch.equal(test.pixels, expected.reshape(20, SIDE, SIDE))
    assert test.labels.tolist() == [*range(10), *range(10)]


# --- damaged files -----------------------------------------------------------------------------------


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


# what was done to the decompressed file -> (the file as it is found, what the message must say)
GZ_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda raw: gzip.compress(raw)[:-100], "cannot be read"),
    "truncated in its header": (lambda raw: gzip.compress(raw)[:5], "cannot be read"),
    "bad CRC": (lambda raw: flipped(gzip.compress(raw), -8), "cannot be read"),
    "bad length": (lambda raw: flipped(gzip.compress(raw), -1), "cannot be read"),
    "bad stream": (lambda raw: gzip.compress(raw)[:20] + b"\xff" * 100, "cannot be read"),
    "not gzip": (lambda raw: raw, "cannot be read"),
    "something behind it": (lambda raw: gzip.compress(raw) + b"\0", "something follows"),
    "an empty stream behind it": (lambda raw: gzip.compress(raw) + gzip.compress(b""), "something follows"),
    "empty": (lambda raw: b"", "cannot be read"),
}
RAW_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong magic": (lambda raw: b"\x00\x00\x09" + raw[3:], "header"),
    "wrong count": (lambda raw: raw[:4] + struct.pack(">I", 39) + raw[8:], "header"),
    "an image too few": (lambda raw: raw[: -(SIDE**2)], "30592 bytes once decompressed"),
    "a byte too few": (lambda raw: raw[:-1], "31375 bytes once decompressed"),
    "a byte too many": (lambda raw: raw + b"\x00", "more bytes once decompressed"),
    "flipped byte": (lambda raw: flipped(raw, 1_000), "SHA-256"),
    "no bytes": (lambda raw: b"", "header"),
}


@pytest.mark.parametrize(
    ("suffix", "damage", "said"),
    [
        *[pytest.param(".gz", *case, id=f"gz-{name}") for name, case in GZ_DAMAGE.items()],
        *[
            pytest.param(".gz", lambda raw, f=make: gzip.compress(f(raw)), said, id=f"gz-{name}")
            for name, (make, said) in RAW_DAMAGE.items()
        ],
        *[pytest.param("", *case, id=f"raw-{name}") for name, case in RAW_DAMAGE.items()],
    ],
)
def test_a_damaged_file_is_refused(
    little: dict[str, bytes], folder: Path, suffix: str, damage: Callable[[bytes], bytes], said: str
):
    name = "train-images-idx3-ubyte"
    (folder / f"{name}.gz").unlink()
    path = folder / f"{name}{suffix}"
    path.write_bytes(damage(little[name]))
    message = refusal(load, SMALL, folder)
    assert str(path) in message
    assert said in message


def test_a_gzip_bomb_is_not_decompressed(little: dict[str, bytes], folder: Path):
    name = "train-images-idx3-ubyte"
    (folder / f"{name}.gz").write_bytes(gzip.compress(little[name] + bytes(64_000_000), 1))
    tracemalloc.start()
    try:
        message = refusal(load, SMALL, folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more bytes once decompressed" in message
    assert peak < 1_000_000


def test_a_label_out_of_range_is_refused_though_its_sum_is_right(
    little: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "train-labels-idx1-ubyte"
    little[name] = little[name][:-1] + b"\x0a"
    declare(little, monkeypatch)
    message = refusal(load, SMALL, write(little, tmp_path / "labels"))
    assert "label 10; the labels are 0 to 9" in message
    assert name in message


def test_a_missing_file_is_refused(folder: Path):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert "train-labels-idx1-ubyte: no such file, raw or .gz" in refusal(load, SMALL, folder)


# --- splits ------------------------------------------------------------------------------------------


def test_split_test_trains_on_every_training_image_and_judges_on_the_test_images(folder: Path):
    (split,) = load(SMALL.derive(split="test"), folder)
    train, test = (torch.tensor(read_idx(folder, files[0])) for files in (dataset.FULL.train, dataset.FULL.test))
    assert torch.equal(split.train.pixels, train)
    assert torch.equal(split.val.pixels, test)


def test_load_test_is_the_split_test(folder: Path):
    final, (judged,) = load_test(SMALL, folder), load(SMALL.derive(split="test"), folder)
    assert torch.equal(final.train.pixels, judged.train.pixels)
    assert torch.equal(final.val.pixels, judged.val.pixels)


@pytest.mark.parametrize(("split", "splits"), [({"split": "holdout"}, 1), ({"split": "folds", "folds": 3}, 3)])
def test_the_test_images_are_out_of_reach_of_what_selects(folder: Path, split: dict[str, Any], splits: int):
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(b"whoever opens this fails")
    assert [len(d.train) + len(d.val) for d in load(SMALL.derive(**split), folder)] == [40] * splits
    refusal(load, SMALL.derive(split="test"), folder)
    refusal(load_test, SMALL.derive(**split), folder)


def test_holdout_is_disjoint_complete_and_stratified():
    images = numbered(700)
    split = holdout(images, 100)
    train, val = numbers(split.train.pixels).tolist(), numbers(split.val.pixels).tolist()
    assert len(val) == 100
    assert sorted(train + val) == list(range(700))
    assert torch.bincount(split.val.labels).tolist() == [10] * 10
    assert torch.equal(split.train.labels, images.labels[train])


@pytest.mark.parametrize("folds", [2, 3, 5, 7, 10])
def test_folds_judge_each_image_once_and_train_on_the_others(folds: int):
    images = numbered(700)
    parts = [fold(images, k, folds) for k in range(folds)]
    assert sorted(n for split in parts for n in numbers(split.val.pixels).tolist()) == list(range(700))
    for split in parts:
        assert sorted(numbers(split.train.pixels).tolist() + numbers(split.val.pixels).tolist()) == list(range(700))
        assert torch.equal(split.val.labels, images.labels[numbers(split.val.pixels)])


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 7, 10, 20])
def test_folds_hold_the_classes_in_equal_shares(folds: int):
    images = numbered(700)
    for k in range(folds):
        per_class = torch.bincount(fold(images, k, folds).val.labels, minlength=10)
        assert per_class.min() >= 70 // folds
        assert per_class.max() <= 70 // folds + 1


def test_the_splits_never_change():
    images = numbered(700)
    torch.manual_seed(1)
    first = holdout(images, 100), fold(images, 1, 3)
    torch.manual_seed(2)
    second = holdout(images, 100), fold(images, 1, 3)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.val.pixels, other.val.pixels)
    assert numbers(first[0].val.pixels)[:8].tolist() == [8, 15, 18, 25, 32, 33, 44, 47]  # as in every version before


def test_load_has_one_split_a_fold(folder: Path):
    splits = load(SMALL.derive(split="folds", folds=4), folder)
    assert [len(split.val) for split in splits] == [10] * 4


@pytest.mark.parametrize("split", [{"split": "holdout"}, {"split": "folds", "folds": 4}, {"split": "test"}], ids=str)
def test_a_batch_larger_than_the_training_set_is_refused(folder: Path, split: dict[str, Any]):
    images = 40 if split["split"] == "test" else 30
    assert load(SMALL.derive(batch_size=images, **split), folder)
    message = refusal(load, SMALL.derive(batch_size=images + 1, **split), folder, error=ConfigError)
    assert f"batch_size={images + 1}: larger than the {images} training images" in message


# --- fewer images to train on --------------------------------------------------------------------------

SPLITS = pytest.mark.parametrize(
    "split", [{"split": "holdout"}, {"split": "folds", "folds": 4}, {"split": "test"}], ids=str
)


@SPLITS
def test_fewer_images_to_train_on_are_some_of_those_that_the_split_leaves(folder: Path, split: dict[str, Any]):
    whole, fewer = (load(SMALL.derive(train_images=n, **split), folder) for n in (0, 20))
    for all_of_it, part in zip(whole, fewer, strict=True):
        assert torch.equal(part.val.pixels, all_of_it.val.pixels)
        assert torch.bincount(part.train.labels).tolist() == [2] * 10
        known = [image.tolist() for image in all_of_it.train.pixels]
        assert all(image.tolist() in known for image in part.train.pixels)


@SPLITS
def test_more_images_than_there_are_to_train_on_are_refused(folder: Path, split: dict[str, Any]):
    left = 40 if split["split"] == "test" else 30
    assert len(load(SMALL.derive(train_images=left, **split), folder)[0].train) == left
    message = refusal(load, SMALL.derive(train_images=left + 1, **split), folder, error=ConfigError)
    assert f"train_images={left + 1}: split={split['split']} of fashion-mnist leaves {left}" in message


def test_a_subset_never_changes_keeps_labels_and_lies_in_a_larger_one():
    images = numbered(700)
    torch.manual_seed(1)
    small, large = subset(images, 50), subset(images, 100)
    torch.manual_seed(2)
    assert torch.equal(subset(images, 50).pixels, small.pixels)
    assert torch.bincount(small.labels).tolist() == [5] * 10
    assert torch.equal(small.labels, images.labels[numbers(small.pixels)])
    assert set(numbers(small.pixels).tolist()) < set(numbers(large.pixels).tolist())
    assert numbers(small.pixels)[:8].tolist() == [8, 15, 18, 32, 33, 47, 48, 76]  # for ever


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 624, 625, 7_000, 60_000])
def test_a_shuffle_is_that_of_torch(size: int):
    for seed in (SPLIT_SEED, 0, 2**32 - 1):
        assert shuffle(size, seed).tolist() == torch.randperm(size, generator=seeded(seed)).tolist()


def test_a_child_process_shares_the_memory_of_splits():
    shared = SharedSplits([holdout(numbered(20), 10).arrays(), fold(numbered(31), 0, 3).arrays()])
    ours, theirs = mp.Pipe()
    child = mp.get_context("spawn").Process(target=change_and_read, args=(shared, theirs))
    child.start()
    ours.recv()
    assert shared[0].train.pixels[0, 0, 0] == 77
    shared[1].val.labels[0] = 5
    ours.send(None)
    assert ours.recv() == ([array.sum() for split in shared for array in split.arrays()], False)
    child.join()


def test_shared_splits_are_those_that_were_given():
    given = [holdout(numbered(20), 10).arrays(), fold(numbered(31), 0, 3).arrays()]
    shared = SharedSplits(given)
    assert len(shared) == 2
    for one, other in zip(given, shared, strict=True):
        for array, copy in zip(one.arrays(), other.arrays(), strict=True):
            assert (array.dtype, array.tolist()) == (copy.dtype, copy.tolist())


# --- batches and augmentation ------------------------------------------------------------------------


@given(images=st.integers(1, 2_000), batch_size=st.integers(1, 2_100))
def test_no_batch_but_the_only_one_holds_a_single_image(images: int, batch_size: int):
    sizes = batch_sizes(images, batch_size)
    assert sum(sizes) == images
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size + 1
    assert sizes[-1] > 1 or images == 1 or batch_size == 1


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(6, 2, [2, 2, 2]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (3, 2, [3]), (3, 1, [1, 1, 1]), (1, 4, [1]), (4, 9, [4])],
)
def test_a_last_batch_of_one_is_merged_into_the_one_before(images: int, batch_size: int, sizes: list[int]):
    assert batch_sizes(images, batch_size) == sizes


def augmented_slowly(image: Tensor, dy: int, dx: int, flip: bool, rectangle: list[int]) -> Tensor:
    """One image, one step at a time: pad, crop, mirror, erase."""
    canvas = torch.zeros(SIDE + 2 * PADDING, SIDE + 2 * PADDING, dtype=torch.uint8)
    canvas[PADDING : PADDING + SIDE, PADDING : PADDING + SIDE] = image
    result = canvas[dy : dy + SIDE, dx : dx + SIDE].clone()
    if flip:
        result = result.fliplr()
    top, left, height, width = rectangle
    result[top : top + height, left : left + width] = 0
    return result


@pytest.mark.parametrize("erase", [False, True])
def test_augmentation_equals_its_slow_reference(tiny: Data, erase: bool):
    images = tiny.train
    drawn = Augmentation.draw(len(images), erase, seeded(3))
    index = torch.randperm(len(images), generator=seeded(4))[:200]
    fast = drawn.apply(images, index)
    assert fast.dtype == torch.uint8
    for i, result in zip(index.tolist(), fast, strict=True):
        rectangle = [0, 0, 0, 0] if drawn.erase is None else drawn.erase[i].tolist()
        slow = augmented_slowly(images.pixels[i], int(drawn.dy[i]), int(drawn.dx[i]), bool(drawn.flip[i]), rectangle)
        assert torch.equal(result, slow)


def test_augmentation_draws_every_shift_and_mirrors_half_of_the_images():
    drawn = Augmentation.draw(10_000, False, seeded(0))
    for shift in (drawn.dy, drawn.dx):
        counts = torch.bincount(shift, minlength=5)
        assert counts.shape == (5,)
        assert ((counts > 1_800) & (counts < 2_200)).all()
    assert 4_800 < drawn.flip.sum() < 5_200


def test_erasing_takes_2_to_33_percent_of_half_of_the_images():
    drawn = Augmentation.draw(10_000, True, seeded(0))
    assert drawn.erase is not None
    top, left, height, width = drawn.erase.unbind(1)
    erased = height > 0
    assert 4_800 < erased.sum() < 5_200
    assert (torch.stack([top, left]) >= 0).all()
    assert ((top + height <= SIDE) & (left + width <= SIDE)).all()
    share = (height * width)[erased] / SIDE**2
    assert 0.01 < share.min() < 0.03  # sides are rounded to pixels
    assert 0.30 < share.max() < 0.36


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "crop-flip-erase"])
def test_an_epoch_is_reproducible_from_its_seed(tiny: Data, augmentation: str):
    config = RunConfig(batch_size=64, augmentation=augmentation)
    first, again, other = (
        torch.cat([pixels for pixels, _ in batches(tiny.train, config, seeded(seed))]) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_draws_nothing_from_torchs_own_generator(tiny: Data):
    before = torch.get_rng_state()
    for _ in batches(tiny.train, RunConfig(augmentation="crop-flip-erase"), seeded(5)):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_holds_each_image_once_in_a_fresh_order_with_its_label():
    images = numbered(300)
    generator = seeded(0)
    orders = []
    for _ in range(2):
        epoch = list(batches(images, RunConfig(batch_size=64), generator))
        assert [len(labels) for _, labels in epoch] == [64, 64, 64, 64, 44]
        order = numbers(torch.cat([pixels for pixels, _ in epoch]))
        assert torch.equal(torch.cat([labels for _, labels in epoch]), images.labels[order])
        assert sorted(order.tolist()) == list(range(300))
        orders.append(order.tolist())
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("augmentation", ["crop-flip", "crop-flip-erase"])
def test_augmented_images_keep_their_labels(augmentation: str):
    labels = torch.arange(250) % 10
    bright = Images((labels * 20 + 20).to(torch.uint8)[:, None, None].expand(-1, SIDE, SIDE).contiguous(), labels)
    for pixels, expected in batches(bright, RunConfig(batch_size=50, augmentation=augmentation), seeded(0)):
        assert torch.equal(pixels.amax((1, 2)).long() // 20 - 1, expected)


def test_normalize_standardises_with_the_training_sets_mean_and_deviation(sample: Data):
    pixels = sample.train.pixels.clone()
    images = normalize(pixels)
    assert images.shape == (6_000, 1, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert torch.allclose(images[:9, 0], (pixels[:9].double() / 255 - MEAN).div(STD).float(), atol=1e-6)
    assert abs(images.mean()) < 0.02  # the sample's own mean and deviation are close to those of the 60,000
    assert abs(images.std() - 1) < 0.02
    assert torch.equal(pixels, sample.train.pixels)


# --- download ----------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, Path], Any]], None]]:
    """A host that can be reached; puts a function of (url, folder) in place of torchvision's download from it."""
    socket.setdefaulttimeout(None)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: socket.socket())

    def replace(function: Callable[[str, Path], Any]) -> None:
        monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda url, root: function(url, Path(root)))

    yield replace
    socket.setdefaulttimeout(None)


WAYS = ("--data-dir", "dataset-fashion-mnist", "--dataset sample")  # out of a data set that cannot be had


def test_without_a_network_fashion_mnist_is_refused_in_one_line_and_auto_takes_the_sample(
    little: dict[str, bytes], nowhere: Path, network: Any, monkeypatch: pytest.MonkeyPatch
):
    limits = []

    def offline(address: Any, timeout: float | None = None) -> None:
        limits.append(timeout)
        raise OSError("Network is unreachable")

    network(lambda url, folder: pytest.fail("nothing is asked of a host that cannot be reached"))
    monkeypatch.setattr(socket, "create_connection", offline)
    message = refusal(resolve, "fashion-mnist")
    assert all(way in message for way in WAYS)
    assert resolve("auto") == (SAMPLE, SAMPLE_DIR)
    assert len(limits) == 2
    assert all(limit is not None and limit <= 5 for limit in limits)


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route\nto host"),
        TimeoutError("timed out"),
        ConnectionResetError(),
        RuntimeError("File not found or corrupted."),
        http.client.BadStatusLine("garbage"),
        http.client.IncompleteRead(b""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_is_one_line_that_says_what_to_do_and_auto_takes_the_sample(
    little: dict[str, bytes], nowhere: Path, network: Any, error: Exception
):
    def fails(url: str, folder: Path) -> None:
        (folder / "part of a file").touch()
        raise error

    network(fails)
    message = refusal(resolve, "fashion-mnist")
    assert all(way in message for way in WAYS)
    assert resolve("auto") == (SAMPLE, SAMPLE_DIR)
    assert list((nowhere / "user").iterdir()) == []


def test_a_download_does_not_wait_for_ever_and_puts_the_socket_timeout_back(
    little: dict[str, bytes], nowhere: Path, network: Any
):
    limits = []

    def fails(url: str, folder: Path) -> None:
        limits.append(socket.getdefaulttimeout())
        raise URLError("connection lost")

    network(fails)
    refusal(resolve, "fashion-mnist")
    assert len(limits) == 1
    assert limits[0] is not None
    assert socket.getdefaulttimeout() is None


def test_a_download_is_verified_and_kept(little: dict[str, bytes], nowhere: Path, network: Any):
    asked = []

    def answers(url: str, folder: Path) -> None:
        name = url.rsplit("/", 1)[1]
        asked.append(name)
        (folder / name).write_bytes(gzip.compress(little[name.removesuffix(".gz")]))

    network(answers)
    cache = nowhere / "user" / "cache"
    assert resolve("fashion-mnist") == (dataset.FULL, cache)
    assert resolve("auto") == (dataset.FULL, cache)
    assert len(load_test(SMALL, cache).val) == 20
    assert asked == [f"{name}.gz" for name in little]  # each once
    assert list((nowhere / "user").iterdir()) == [cache]


def test_a_download_that_is_not_fashion_mnist_is_not_kept(little: dict[str, bytes], nowhere: Path, network: Any):
    network(lambda url, folder: (folder / url.rsplit("/", 1)[1]).write_bytes(gzip.compress(b"a login page")))
    assert "header" in refusal(resolve, "fashion-mnist")
    assert resolve("auto") == (SAMPLE, SAMPLE_DIR)
    assert list((nowhere / "user").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_failed_download(little: dict[str, bytes], nowhere: Path, network: Any):
    (nowhere / "user").touch()  # a file where the cache's parent folder would be
    network(lambda url, folder: pytest.fail("there is no place for it"))
    refusal(resolve, "fashion-mnist")
    assert resolve("auto") == (SAMPLE, SAMPLE_DIR)
    assert socket.getdefaulttimeout() is None
